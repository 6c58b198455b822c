//! One row of each sequence: its last, the mean of all, or what attention to them gives.
//!
//! - `Last`: y\[s\] = x\[T\], T the last row of sequence s; dx\[T\] = dy\[s\], 0 elsewhere.
//! - `Mean`: y\[s\] = Σ_t x\[t\] / n over its n rows; dx\[t\] = dy\[s\] / n.
//! - `Attention`: y\[s\] = Σ_t p\[t\] x\[t\], p the softmax of its scores; dx\[t\] = p\[t\] dy\[s\],
//!   dscores\[t\] = p\[t\] ⟨x\[t\] − y\[s\], dy\[s\]⟩.
//!
//! - x: (batch, length, width), scores: (batch, length, 1), each f32, on a GPU f32 or bf16, and maybe columns of wider
//!   rows; y: (sequences, width) f32.
//! - Sequences are the rows of the batch or, with `starts`, those packed in them, in the order they stand; every row
//!   of the batch begins with one.
//! - Sums are in f32, over parts of 128 rows and then over the parts, in an order that follows from shapes alone.
//! - A score of −∞ is a weight of 0; a sequence of nothing else is NaN, as one with NaN or +∞ among its scores is.
//!
//! Source: of attention Z. Lin et al., "A Structured Self-attentive Sentence Embedding", arXiv 1703.03130.

pub mod cpu;
pub mod cuda;
mod parts;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{DType, Device, Error, Mat, MatMut, Result, Tensor, Var, View, ViewMut};

pub use parts::Parts;

use crate::record::record;
use crate::{Starts, check};

const OP: &str = "pooling";

/// What [`pooling`] makes of the rows of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last of them.
    Last,
    /// Their mean.
    Mean,
    /// Their sum, each weighted by the softmax of the scores.
    Attention,
}

/// How [`pooling`] reads its operands.
#[derive(Clone, Copy, Debug)]
pub struct PoolingOptions<'a> {
    /// What is made of the rows of a sequence.
    pub kind: Pooling,
    /// Where packed sequences start.
    pub starts: Option<&'a Starts>,
}

/// One row of each sequence; see the head of this module.
///
/// # Shapes
/// x (batch, length, width), scores (batch, length, 1) → (sequences, width) in f32
///
/// # Errors
/// Shapes, types or devices that do not fit; sequences without rows; attention without scores ([`Error::Missing`]),
/// scores without attention ([`Error::Surplus`]).
pub fn pooling(x: &Var, scores: Option<&Var>, options: &PoolingOptions<'_>) -> Result<Var> {
    let PoolingOptions { kind, starts } = *options;
    let [batch, length, width] = x.shape().axes(OP, "x", "(batch, length, width)")?;
    check::range(OP, "the columns of x", 1..usize::MAX, width)?;
    let (device, what) = (x.device(), "scores");
    match (kind, scores) {
        (Pooling::Attention, Some(scores)) => {
            check::shape(OP, what, &[batch, length, 1], scores)?;
            check::device(OP, what, device, scores.device())?;
        }
        (Pooling::Attention, None) => return Err(Error::Missing { op: OP, what }),
        (_, Some(_)) => return Err(Error::Surplus { op: OP, what }),
        (_, None) => {}
    }
    let parts = Parts::new(starts, [batch, length], device)?;
    let mut y = Tensor::empty([parts.sequences(), width], DType::F32, device)?;
    let mut norms = Tensor::empty([parts.sequences(), 2], DType::F32, device)?;
    match device {
        Device::Cpu => {
            let scores = scores.map(Var::mat).transpose()?;
            let (y, norms) = (y.mat_mut()?, norms.mat_mut()?);
            cpu::forward(kind, x.mat()?, scores, &parts, y, norms);
        }
        Device::Cuda(_) => {
            let (y, norms) = (y.view_mut()?, norms.view_mut()?);
            cuda::forward(kind, x.view(), scores.map(Var::view), &parts, y, norms)?;
        }
    }
    let out = y.clone();
    let keep = || Kept {
        kind,
        parts,
        norms,
        attended: scores.map(|scores| [x.detach(), scores.detach(), y.into()]),
    };
    record(OP, &[Some(x), scores], out, keep, backward)
}

struct Kept {
    kind: Pooling,
    parts: Parts,
    /// The largest score of each sequence, and the sum of e^(score − that): (sequences, 2).
    norms: Tensor,
    /// x, the scores and y.
    attended: Option<[Var; 3]>,
}

fn backward(kept: Kept, dy: Tensor, context: &mut BackwardContext<'_, '_>) -> Result<()> {
    let (kind, parts) = (kept.kind, &kept.parts);
    let (dx, attended) = match &kept.attended {
        None => {
            let [dx] = context.overwrite([0])?;
            (dx, None)
        }
        Some(kept) => {
            let [dx, dscores] = context.overwrite([0, 1])?;
            let [x, scores, y] = kept.each_ref().map(Var::view);
            let attended = Attended {
                x,
                scores,
                y,
                dscores,
            };
            (dx, Some(attended))
        }
    };
    let (norms, dy) = (kept.norms.view(), dy.view());
    if dx.device() != Device::Cpu {
        return cuda::backward(kind, parts, norms, dy, attended, dx);
    }
    let attended = attended.map(Attended::on_cpu).transpose()?;
    cpu::backward(kind, parts, norms.mat()?, dy.mat()?, attended, dx.mat()?);
    Ok(())
}

/// What the gradients of attention take besides.
#[derive(Debug)]
pub struct Attended<V, M> {
    /// (rows, width).
    pub x: V,
    /// (rows, 1).
    pub scores: V,
    /// What was given: (sequences, width) in f32.
    pub y: V,
    /// (rows, 1), overwritten.
    pub dscores: M,
}

impl<'a> Attended<View<'a>, ViewMut<'a>> {
    fn on_cpu(self) -> Result<Attended<Mat<'a>, MatMut<'a>>> {
        Ok(Attended {
            x: self.x.mat()?,
            scores: self.scores.mat()?,
            y: self.y.mat()?,
            dscores: self.dscores.mat()?,
        })
    }
}
