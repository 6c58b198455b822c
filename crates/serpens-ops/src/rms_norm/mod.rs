//! Root mean square normalisation with the residual addition fused in.
//!
//! h = x + residual (h = x without one), r = (mean_c h\[c\]² + eps)^−½, y = h · r ⊙ w. h, y: (rows, d_model), w: (d_model),
//! r: (rows), all f32. Source: B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
//!
//! Gradient of h, which goes to x and to the residual alike, with `dh_extra` arriving at h from the residual stream:
//! dh = dh_extra + r·(w ⊙ dy) − h·r³/d_model · Σ_c w·dy·h, and dw = Σ_rows dy ⊙ h·r.

pub mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Error, Result, Tensor, Var};

use crate::check;

const OP: &str = "rms_norm";

/// What [`rms_norm`] gives.
pub struct RmsNormOutput {
    /// The normalised sum, (…, width).
    pub y: Var,
    /// The sum h = x + residual, (…, width): the new residual stream.
    pub h: Var,
}

/// h = x + residual, y = h / √(mean h² + eps) ⊙ w. Without a residual h is x itself.
///
/// # Shapes
/// x, residual (…, width), weight (width) → (…, width) twice
///
/// # Errors
/// Shapes that do not fit; operands that are not f32.
pub fn rms_norm(x: &Var, residual: Option<&Var>, weight: &Var, eps: f32) -> Result<RmsNormOutput> {
    let shape = x.shape();
    check::optional(OP, "residual", &shape, residual)?;
    if shape.is_empty() {
        return Err(Error::shape(OP, "x", "(…, width)", shape));
    }
    check::shape(OP, "weight", &[shape.cols()], weight)?;
    let device = weight.tensor()?.device();
    let mut y = Tensor::empty(shape, DType::F32, device)?;
    let mut rstd = Tensor::empty([shape.rows()], DType::F32, device)?;
    let mut h = residual
        .map(|_| Tensor::empty(shape, DType::F32, device))
        .transpose()?;
    cpu::forward(
        x.mat()?,
        residual.map(Var::mat).transpose()?,
        check::values(weight)?,
        eps,
        h.as_mut().map(Tensor::mat_mut).transpose()?,
        y.mat_mut()?,
        rstd.make_mut()?,
    );
    let operands = [Some(x), residual, Some(weight)];
    let saved = tracked(&operands).then(|| {
        Box::new(RmsNormBackward {
            h: h.clone().map_or_else(|| x.detach(), Var::from),
            weight: weight.detach(),
            rstd,
        }) as Box<dyn Backward>
    });
    match h {
        Some(h) => {
            let [y, h] = record(OP, &operands, [y, h], saved)?;
            Ok(RmsNormOutput { y, h })
        }
        None => {
            let [y] = record(OP, &operands, [y], saved)?;
            Ok(RmsNormOutput { y, h: x.clone() })
        }
    }
}

/// dh = rstd · (dy ⊙ w - h · mean(dy ⊙ w ⊙ h) · rstd²) + what arrives at h; dx = dresidual = dh; dw = Σ_rows dy ⊙ h · rstd.
struct RmsNormBackward {
    h: Var,
    weight: Var,
    rstd: Tensor,
}

impl Backward for RmsNormBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let dh_stream = context.take_output(1);
        let Some(dy) = context.take_output(0) else {
            // Only the sum was used: its gradient passes through.
            if let Some(dh) = dh_stream {
                context.add(0, dh.clone())?;
                context.add(1, dh)?;
            }
            return Ok(());
        };
        let mut dh = Tensor::empty(self.h.shape(), DType::F32, dy.device())?;
        let saved = cpu::Saved {
            h: self.h.mat()?,
            w: check::values(&self.weight)?,
            rstd: self.rstd.as_slice()?,
        };
        let extra = dh_stream.as_ref().map(Tensor::mat).transpose()?;
        let [dw] = context.overwrite([2])?;
        cpu::backward(dy.mat()?, extra, saved, dh.mat_mut()?, dw.slice()?, false);
        context.add(1, dh.clone())?;
        context.add(0, dh)
    }
}
