//! Causal long convolution, one kernel per channel.
//!
//! ```text
//! y[b,t,e] = Σ_{s=0..t} k[s,e] · u[b,t-s,e]
//! ```
//!
//! Shapes: `u`, `y` are `(batch, length, channels)`, `k` is `(length, channels)`; all `f32`, but on a GPU `u` and `y`
//! may both be `bf16`, and `u` a range of columns. With `K = (CB̄, CĀB̄, …)` as `k` this is the convolutional form of a
//! linear time-invariant state space model (Gu and Dao, arXiv 2312.00752, section 2).
//!
//! A NaN or an infinity in `u` reaches every output of its sequence, those before it too, and of a channel that shares
//! its transform: beyond some length the sum is a product of Fourier transforms, which know no order of time.
//!
//! Gradients, given `dy`: both are correlations,
//! `du[b,s,e] = Σ_{t≥s} k[t-s,e] · dy[b,t,e]` and `dk[s,e] = Σ_b Σ_{t≥s} dy[b,t,e] · u[b,t-s,e]`.

pub mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{DType, Device, Result, Tensor, Var};

use crate::check;
use crate::record::record;

const OP: &str = "long_conv";

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongConvDims {
    /// Sequences in the batch.
    pub batch: usize,
    /// Time steps.
    pub length: usize,
    /// Channels, contiguous in memory.
    pub channels: usize,
}

impl LongConvDims {
    fn is_empty(self) -> bool {
        self.batch == 0 || self.length == 0 || self.channels == 0
    }
}

/// y_t = Σ_(s ≤ t) k_s ⊙ u_(t-s), each channel by itself.
///
/// # Shapes
/// u (batch, length, channels), k (length, channels) → (batch, length, channels)
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says; on a GPU, more than 2^23 steps.
pub fn long_conv(u: &Var, k: &Var) -> Result<Var> {
    let [batch, length, channels] = u.shape().axes(OP, "u", "(batch, length, channels)")?;
    check::shape(OP, "k", &[length, channels], k)?;
    let dims = LongConvDims {
        batch,
        length,
        channels,
    };
    let device = u.device();
    let mut y = Tensor::empty(u.shape(), u.dtype(), device)?;
    match device {
        Device::Cpu => cpu::forward(check::values(u)?, check::values(k)?, y.make_mut()?, dims),
        Device::Cuda(_) => cuda::forward(u.view(), k.view(), y.view_mut()?, dims)?,
    }
    let operands = [Some(u), Some(k)];
    let keep = || (u.detach(), k.detach(), dims);
    record(OP, &operands, y, keep, backward)
}

/// du_s = Σ_(t ≥ s) k_(t-s) ⊙ dy_t, dk_s = Σ_batch Σ_(t ≥ s) dy_t ⊙ u_(t-s).
fn backward(
    (u, k, dims): (Var, Var, LongConvDims),
    dy: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let mut du = Tensor::empty(u.shape(), u.dtype(), dy.device())?;
    let mut dk = Tensor::empty(k.shape(), DType::F32, dy.device())?;
    let (wants_du, wants_dk) = (context.wants(0), context.wants(1));
    match dy.device() {
        Device::Cpu => cpu::backward(
            check::values(&u)?,
            check::values(&k)?,
            dy.as_slice()?,
            wants_du.then_some(du.make_mut()?),
            wants_dk.then_some(dk.make_mut()?),
            dims,
        ),
        Device::Cuda(_) => {
            let du = wants_du.then_some(du.view_mut()?);
            let dk = wants_dk.then_some(dk.view_mut()?);
            cuda::backward(u.view(), k.view(), dy.view(), du, dk, dims)?;
        }
    }
    context.add(0, du)?;
    context.add(1, dk)
}
