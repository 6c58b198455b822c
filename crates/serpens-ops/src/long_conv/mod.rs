//! Causal long convolution, one kernel per channel.
//!
//! ```text
//! y[b,t,e] = Σ_{s=0..t} k[s,e] · u[b,t-s,e]
//! ```
//!
//! Shapes: `u`, `y` are `(batch, length, channels)`, `k` is `(length, channels)`; all `f32`.
//! With `K = (CB̄, CĀB̄, …)` as `k` this is the convolutional form of a linear time-invariant state space model
//! (Gu and Dao, arXiv 2312.00752, section 2).
//!
//! Gradients, given `dy`: both are correlations,
//! `du[b,s,e] = Σ_{t≥s} k[t-s,e] · dy[b,t,e]` and `dk[s,e] = Σ_b Σ_{t≥s} dy[b,t,e] · u[b,t-s,e]`.

mod complex;
pub mod cpu;
mod direct;
mod fft;
pub mod reference;
mod spectrum;
#[cfg(test)]
mod tests;
mod tile;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Result, Tensor, Var};

use crate::check;

const OP: &str = "long_conv";

/// y_t = Σ_(s ≤ t) k_s ⊙ u_(t-s), each channel by itself.
///
/// # Shapes
/// u (batch, length, channels), k (length, channels) → (batch, length, channels)
///
/// # Errors
/// Shapes that do not fit; operands that are not contiguous f32.
pub fn long_conv(u: &Var, k: &Var) -> Result<Var> {
    let [batch, length, channels] = check::axes(OP, "u", "(batch, length, channels)", u)?;
    check::shape(OP, "k", &[length, channels], k)?;
    let shape = cpu::Shape {
        batch,
        length,
        channels,
    };
    let mut y = Tensor::empty(u.shape(), DType::F32, u.tensor()?.device())?;
    cpu::forward(check::values(u)?, check::values(k)?, y.make_mut()?, shape);
    let operands = [Some(u), Some(k)];
    let operation = tracked(&operands).then(|| {
        Box::new(LongConvBackward {
            u: u.detach(),
            k: k.detach(),
            shape,
        }) as Box<dyn Backward>
    });
    let [y] = record(OP, &operands, [y], operation)?;
    Ok(y)
}

/// du_s = Σ_(t ≥ s) k_(t-s) ⊙ dy_t, dk_s = Σ_batch Σ_(t ≥ s) dy_t ⊙ u_(t-s).
struct LongConvBackward {
    u: Var,
    k: Var,
    shape: cpu::Shape,
}

impl Backward for LongConvBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        let mut du = Tensor::empty(self.u.shape(), DType::F32, dy.device())?;
        let mut dk = Tensor::empty(self.k.shape(), DType::F32, dy.device())?;
        cpu::backward(
            check::values(&self.u)?,
            check::values(&self.k)?,
            dy.as_slice()?,
            context.wants(0).then_some(du.make_mut()?),
            context.wants(1).then_some(dk.make_mut()?),
            self.shape,
        );
        context.add(0, du)?;
        context.add(1, dk)
    }
}
