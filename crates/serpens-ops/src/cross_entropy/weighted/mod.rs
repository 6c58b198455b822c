//! Cross-entropy with classes that weigh differently and targets that are less than certain.
//!
//! For logits x `(rows, C)`, a target t for each row, weights w of the classes and the smoothing ε, over the rows whose
//! target is not [`IGNORE`](super::IGNORE), with lse as in [`cross_entropy`](super):
//!
//! ```text
//! q_rc        = (1 − ε) w_c [c = t(r)] + ε/C w_c
//! W           = Σ_r w_t(r)
//! loss        = Σ_r Σ_c q_rc (lse_r − x_rc) / W
//! ∂loss/∂x_rj = (exp(x_rj − lse_r) Σ_c q_rc − q_rj) / W
//! ```
//!
//! Types are those of [`cross_entropy`](super), weights f32. A class that weighs 0 takes no part, even where its logit
//! is −∞; rows that are ignored have gradient 0; where W is 0, loss and gradient are 0. Of the
//! totals the mean is the loss; they count the same as those of [`cross_entropy`](super).
//!
//! Results do not depend on the number of threads: sums over rows are f64, along a tree or over blocks that depend on
//! the shape only. A GPU has a warp for each row.
//!
//! Source: label smoothing, C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv
//! 1512.00567; with weights as PyTorch's `CrossEntropyLoss` has both.

pub mod cpu;
pub(super) mod cuda;
#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;

use serpens_core::tape::BackwardContext;
use serpens_core::{DType, Device, Error, Result, Tensor, Var};

use super::{CrossEntropy, OP, Totals, WORDS, check_operands, check_targets};
use crate::check;
use crate::record::record;

/// How classes count in [`weighted_cross_entropy`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassOptions<'a> {
    /// The weight of each class: (classes) f32, on the logits' device; 1 each where there are none.
    pub weights: Option<&'a Tensor>,
    /// The share of a target that goes to all classes alike: at least 0 and below 1.
    pub smoothing: f32,
}

/// The cross-entropy of weighted classes and smoothed targets; see the head of this module. The logits are given up:
/// where this was their last holder, the backward pass writes their gradient over them.
///
/// # Shapes
/// logits (…, classes), targets (…) of u32
///
/// # Errors
/// As [`cross_entropy`](super::cross_entropy()); weights of another shape; [`Error::Value`] for a smoothing outside its
/// range and, on the processor, for weights that are negative, infinite or NaN, with which a GPU computes unseen.
pub fn weighted_cross_entropy(
    logits: Var,
    targets: &Tensor,
    options: &ClassOptions<'_>,
) -> Result<CrossEntropy> {
    check_operands(&logits, targets)?;
    let (device, classes) = (logits.device(), logits.shape().cols());
    let (smoothing, expected) = (options.smoothing, "at least 0 and below 1");
    check_value("the smoothing", expected, 0.0..1.0, smoothing)?;
    let weights = match options.weights {
        Some(weights) => weights.clone(),
        None => Tensor::full([classes], 1.0_f32, device)?,
    };
    check::shape(OP, "weights", &[classes], &weights.clone().into())?;
    let mut kept = Kept {
        targets: targets.clone(),
        weights,
        smoothing,
        norms: Tensor::empty([targets.len(), 2], DType::F32, device)?,
        weight: Tensor::empty([1], DType::F32, device)?,
    };
    let [loss, totals] = match device {
        Device::Cpu => kept.forward_on_cpu(&logits)?,
        Device::Cuda(_) => cuda::forward(&logits, &mut kept)?,
    };
    let keep = || (logits.detach(), kept);
    let loss = record(OP, &[Some(&logits)], loss, keep, backward)?;
    Ok(CrossEntropy { loss, totals })
}

/// Fails unless a number is in `range`, which `expected` says in words.
fn check_value(
    what: &'static str,
    expected: &'static str,
    range: Range<f32>,
    got: f32,
) -> Result<()> {
    if range.contains(&got) {
        return Ok(());
    }
    Err(Error::Value {
        op: OP,
        what,
        expected,
        got: got.into(),
    })
}

/// What the gradient needs besides the logits.
struct Kept {
    targets: Tensor,
    weights: Tensor,
    smoothing: f32,
    /// Each row's largest logit, and Σ exp(x − largest): (rows, 2).
    norms: Tensor,
    /// W of the head of this module, one value.
    weight: Tensor,
}

impl Kept {
    /// The loss and the totals.
    fn forward_on_cpu(&mut self, logits: &Var) -> Result<[Tensor; 2]> {
        let (ids, weights) = (self.targets.as_slice()?, self.weights.as_slice::<f32>()?);
        check_targets(ids, weights.len())?;
        for &weight in weights {
            let range = 0.0..f32::INFINITY;
            check_value("a weight", "at least 0 and finite", range, weight)?;
        }
        let (norms, _) = self.norms.make_mut()?.as_chunks_mut();
        let values = logits.tensor()?.as_slice()?;
        let classes = cpu::Classes::new(weights, self.smoothing);
        let sums = cpu::forward(values, ids, classes, norms);
        let one = |value: f64| Tensor::full([1], value as f32, Device::Cpu);
        self.weight = one(sums.weight)?;
        let totals = Totals {
            sum: sums.mean() * sums.totals.count as f64,
            ..sums.totals
        };
        let totals = Tensor::from_slice([WORDS], &totals.words(), Device::Cpu)?;
        Ok([one(sums.mean())?, totals])
    }
}

fn backward(
    (logits, kept): (Var, Kept),
    dloss: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let mut gradient = logits.into_tensor()?;
    if dloss.device() == Device::Cpu {
        let weight = kept.weight.as_slice::<f32>()?[0];
        let dloss: &[f32] = dloss.as_slice()?;
        let scale = if weight == 0.0 {
            0.0
        } else {
            dloss[0] / weight
        };
        let classes = cpu::Classes::new(kept.weights.as_slice()?, kept.smoothing);
        let (norms, _) = kept.norms.as_slice()?.as_chunks();
        let (values, targets) = (gradient.make_mut()?, kept.targets.as_slice()?);
        cpu::backward(values, targets, classes, norms, scale);
    } else {
        cuda::backward(gradient.view_mut()?, &kept, dloss.view())?;
    }
    context.add(0, gradient)
}
