//! Root mean square normalisation with the residual addition fused in.
//!
//! h = x + residual (h = x without one), r = (mean_c h\[c\]² + eps)^−½, y = h · r ⊙ w. h, y: (rows, d_model), w:
//! (d_model), r: (rows), all f32, but on a GPU x and y, and so their gradients, may each be bf16. Source: B. Zhang and
//! R. Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
//!
//! Gradient of h, which goes to x and to the residual alike, with `dh_extra` arriving at h from the residual stream:
//! dh = dh_extra + r·(w ⊙ dy) − h·r³/d_model · Σ_c w·dy·h, and dw = Σ_rows dy ⊙ h·r.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var, View, ViewMut};

use crate::check;
use crate::linear::Norm;
use crate::shared::scratch::with_scratch;

const OP: &str = "rms_norm";

/// What [`rms_norm`] gives.
pub struct RmsNormOutput {
    /// The normalised sum, (…, width).
    pub y: Var,
    /// The sum h = x + residual, (…, width): the new residual stream, in f32. Without a residual it is x.
    pub h: Var,
}

/// h = x + residual, y = h / √(mean h² + eps) ⊙ w in the type `output`. Without a residual h is x itself.
///
/// # Shapes
/// x, residual (…, width), weight (width) → (…, width) twice
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says.
pub fn rms_norm(
    x: &Var,
    residual: Option<&Var>,
    weight: &Var,
    eps: f32,
    output: DType,
) -> Result<RmsNormOutput> {
    let shape = x.shape();
    if let Some(residual) = residual {
        check::shape(OP, "residual", &shape, residual)?;
    }
    if shape.is_empty() {
        return Err(Error::shape(OP, "x", "(…, width)", shape));
    }
    check::shape(OP, "weight", &[shape.cols()], weight)?;
    let device = weight.tensor()?.device();
    let mut y = Tensor::empty(shape, output, device)?;
    let mut rstd = Tensor::empty([shape.rows()], DType::F32, device)?;
    let mut h = residual
        .map(|_| Tensor::empty(shape, DType::F32, device))
        .transpose()?;
    match device {
        Device::Cpu => cpu::forward(
            x.mat()?,
            residual.map(Var::mat).transpose()?,
            check::values(weight)?,
            eps,
            h.as_mut().map(Tensor::mat_mut).transpose()?,
            y.mat_mut()?,
            rstd.make_mut()?,
        ),
        Device::Cuda(_) => {
            let inputs = cuda::Inputs {
                x: x.view(),
                residual: residual.map(Var::view),
                w: weight.tensor()?.view(),
                eps,
            };
            let h = h.as_mut().map(Tensor::view_mut).transpose()?;
            cuda::forward(&inputs, h, y.view_mut()?, Some(rstd.view_mut()?))?;
        }
    }
    let operands = [Some(x), residual, Some(weight)];
    let saved = tracked(&operands).then(|| {
        Box::new(RmsNormBackward {
            h: h.clone().map_or_else(|| x.detach(), Var::from),
            x_dtype: x.dtype(),
            weight: weight.detach(),
            rstd,
        }) as Box<dyn Backward>
    });
    let Some(h) = h else {
        let [y] = record(OP, &operands, [y], saved)?;
        return Ok(RmsNormOutput { y, h: x.clone() });
    };
    let [y, h] = record(OP, &operands, [y, h], saved)?;
    Ok(RmsNormOutput { y, h })
}

/// y = norm(x), without a tape.
///
/// # Shapes
/// x, y (rows, width), columns of wider rows or not
///
/// # Errors
/// Shapes that do not fit; operands of other types than f32, or on another device than the processor.
pub fn step(x: View<'_>, norm: Norm<'_>, y: ViewMut<'_>) -> Result<()> {
    let (shape, f32s) = ([x.rows(), x.cols()], (DType::F32, Device::Cpu));
    check::view(OP, "x", shape, f32s, &x)?;
    check::view(OP, "weight", [1, x.cols()], f32s, &norm.weight)?;
    check::view(OP, "y", shape, f32s, &y.as_view())?;
    let (x, weight, y) = (x.mat()?, norm.weight.mat()?.into_slice(), y.mat()?);
    with_scratch(x.rows(), |rstd| {
        cpu::forward(x, None, weight, norm.eps, None, y, rstd);
    });
    Ok(())
}

/// dh = rstd · (dy ⊙ w - h · mean(dy ⊙ w ⊙ h) · rstd²) + what arrives at h; dx = dresidual = dh; dw = Σ_rows dy ⊙ h ·
/// rstd.
struct RmsNormBackward {
    h: Var,
    x_dtype: DType,
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
        if let Device::Cuda(_) = dy.device() {
            return self.on_gpu(dy, dh_stream, context);
        }
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

impl RmsNormBackward {
    /// The gradient of the sum in f32 for the residual and, where x is bf16, once more in bf16 for x.
    fn on_gpu(
        &self,
        dy: Tensor,
        dh_stream: Option<Tensor>,
        context: &mut BackwardContext<'_, '_>,
    ) -> Result<()> {
        let (shape, device) = (self.h.shape(), dy.device());
        let narrow = self.x_dtype == DType::BF16;
        let gradient = |wanted: bool, dtype| {
            let tensor = wanted.then(|| Tensor::empty(shape, dtype, device));
            tensor.transpose()
        };
        let mut dh = gradient(context.wants(1) || !narrow, DType::F32)?;
        let mut dx = gradient(narrow && context.wants(0), DType::BF16)?;
        let saved = cuda::Saved {
            h: self.h.view(),
            w: self.weight.tensor()?.view(),
            rstd: self.rstd.view(),
        };
        let extra = dh_stream.as_ref().map(Tensor::view);
        let [dw] = context.overwrite([2])?;
        let gradients = cuda::Gradients {
            dh: dh.as_mut().map(Tensor::view_mut).transpose()?,
            dx: dx.as_mut().map(Tensor::view_mut).transpose()?,
            dw,
        };
        cuda::backward(dy.view(), extra, &saved, gradients)?;
        if let Some(dh) = &dh {
            context.add(1, dh.clone())?;
        }
        match dx.or(dh.filter(|_| !narrow)) {
            Some(dx) => context.add(0, dx),
            None => Ok(()),
        }
    }
}
