//! Heads of the same rows, each by factors and offsets of its own: how a gated attention unit makes its queries and
//! keys of one projection.
//!
//! y\[r, h·s + i\] = x\[r, i\] · γ\[h·s + i\] + β\[h·s + i\], s the columns of x.
//!
//! - x: (…, s) f32, on a GPU f32 or bf16, and may be columns of wider rows; γ (`scale`), β (`offset`): (heads · s) f32;
//!   y: (…, heads · s) in x's type.
//! - Gradients: dx\[r, i\] = Σ_h γ\[h·s + i\] · dy\[r, h·s + i\], heads in order; dγ\[j\] = Σ_r dy\[r, j\] ·
//!   x\[r, j mod s\]; dβ\[j\] = Σ_r dy\[r, j\].
//!
//! Source: W. Hua et al., "Transformer Quality in Linear Time", arXiv 2202.10447.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{Device, Error, Result, Tensor, Var};

use crate::check;
use crate::record::record;

const OP: &str = "offset_scale";

/// As many heads of x as `scale` and `offset` have rows of its width; see the head of this module.
///
/// # Shapes
/// x (…, s), scale and offset (heads · s) → (…, heads · s)
///
/// # Errors
/// Shapes, types or devices that do not fit.
pub fn offset_scale(x: &Var, scale: &Var, offset: &Var) -> Result<Var> {
    let (shape, device) = (x.shape(), x.device());
    if shape.is_empty() {
        return Err(Error::shape(OP, "x", "(…, s)", shape));
    }
    let [width] = scale.shape().axes(OP, "scale", "(heads · s)")?;
    check::range(OP, "the columns of x", 1..usize::MAX, shape.cols())?;
    check::range(OP, "the values of scale", 1..usize::MAX, width)?;
    check::multiple(OP, "the number of values of scale", shape.cols(), width)?;
    check::shape(OP, "offset", &[width], offset)?;
    check::device(OP, "scale", device, scale.device())?;
    check::device(OP, "offset", device, offset.device())?;
    let mut y = Tensor::empty(shape.with_cols(width), x.dtype(), device)?;
    match device {
        Device::Cpu => {
            let (scale, offset) = (check::values(scale)?, check::values(offset)?);
            cpu::forward(x.mat()?, scale, offset, y.mat_mut()?);
        }
        Device::Cuda(_) => cuda::forward(x.view(), scale.view(), offset.view(), y.view_mut()?)?,
    }
    let keep = || (x.detach(), scale.detach());
    record(OP, &[Some(x), Some(scale), Some(offset)], y, keep, backward)
}

fn backward(
    (x, scale): (Var, Var),
    dy: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let [dx, dscale, doffset] = context.overwrite([0, 1, 2])?;
    match dy.device() {
        Device::Cpu => {
            let (dscale, doffset) = (dscale.slice()?, doffset.slice()?);
            let scale = check::values(&scale)?;
            cpu::backward(dy.mat()?, x.mat()?, scale, dx.mat()?, dscale, doffset);
            Ok(())
        }
        Device::Cuda(_) => {
            let gradients = cuda::Gradients {
                dx,
                dscale,
                doffset,
            };
            cuda::backward(dy.view(), x.view(), scale.view(), gradients)
        }
    }
}
