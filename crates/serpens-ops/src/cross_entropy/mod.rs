//! Cross-entropy of a categorical distribution given by its logits.
//!
//! For logits x `(rows, vocab)` and a target t for each row, over the rows whose target is not [`cpu::IGNORE`]:
//!
//! ```text
//! lse_r      = ln Σ_j exp(x_rj)
//! nll_r      = lse_r − x_r,t(r)                      in nats
//! loss       = Σ_r nll_r / count
//! ∂loss/∂x_rj = (exp(x_rj − lse_r) − [j = t(r)]) / count
//! ```
//!
//! Targets are u32, logits and their gradient f32, on a GPU f32 or bf16; the loss is f32. The gradient is written over
//! the logits: the largest tensor of a language model exists once. Rows that are ignored have loss 0 and gradient 0;
//! where every row is ignored the loss is 0 with a count of 0. A logit of −∞ is a probability of 0; NaN and +∞ give a
//! loss of NaN.
//!
//! Results do not depend on the number of threads: rows are halved down to blocks that depend on the shape only, and
//! the partial sums are added in f64 along the same tree. On a GPU a row's sum is f32, the sum over rows f64.

pub mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;
pub mod weighted;

use std::cell::Cell;
use std::rc::Rc;

use serpens_core::tape::{BackwardContext, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var};

pub use cpu::{IGNORE, Totals};
pub use weighted::{ClassOptions, weighted_cross_entropy};

use crate::check;
use crate::record::record;

const OP: &str = "cross_entropy";

/// What [`cross_entropy`] and [`weighted_cross_entropy`] give.
pub struct CrossEntropy {
    /// The mean over the counted positions, with weights a weighted one: one value, 0 where none counts.
    pub loss: Var,
    /// The sums over the positions as words on the logits' device: see [`CrossEntropy::read`].
    pub totals: Tensor,
}

impl CrossEntropy {
    /// The sums over the positions. On a GPU this waits for the loss to be computed.
    ///
    /// # Errors
    /// A target that is neither below the vocabulary nor [`IGNORE`]: a GPU leaves such a position out, and tells here.
    pub fn read(&self) -> Result<Totals> {
        Totals::read(&self.totals)
    }
}

/// Words of a tensor of totals: the sum's two halves, the count, the correct, the invalid targets and the least of
/// them, the size of the vocabulary, and one that fills up.
const WORDS: usize = 8;

impl Totals {
    /// Reads [`CrossEntropy::totals`].
    ///
    /// # Errors
    /// As [`CrossEntropy::read`].
    pub fn read(totals: &Tensor) -> Result<Self> {
        let words = totals.to_vec::<u32>()?;
        let [low, high, count, correct, invalid, offender, vocabulary, _] = words[..] else {
            let (expected, got) = (format!("{WORDS} words"), totals.shape());
            return Err(Error::shape(OP, "the totals", expected, got));
        };
        if invalid > 0 {
            // Refused whatever it is.
            check_target(offender, vocabulary.min(offender) as usize)?;
        }
        Ok(Totals {
            sum: f64::from_bits(u64::from(high) << 32 | u64::from(low)),
            count: count as usize,
            correct: correct as usize,
        })
    }

    /// The words that [`Totals::read`] reads.
    fn words(&self) -> [u32; WORDS] {
        let bits = self.sum.to_bits();
        let (low, high) = (bits as u32, (bits >> 32) as u32);
        let (count, correct) = (self.count as u32, self.correct as u32);
        [low, high, count, correct, 0, 0, 0, 0]
    }
}

fn check_target(target: u32, vocabulary: usize) -> Result<()> {
    check::range(OP, "a target", 0..vocabulary, target as usize)
}

/// Fails unless every target is below `vocabulary` or [`IGNORE`].
pub fn check_targets(targets: &[u32], vocabulary: usize) -> Result<()> {
    cpu::check_targets(targets, vocabulary).or_else(|at| check_target(targets[at], vocabulary))
}

/// The mean of `-log softmax(logits)[target]` over the positions whose target is not [`IGNORE`].
///
/// The logits are given up: where this was their last holder, their gradient is written over them, so that there is
/// never a second tensor of that size.
///
/// # Shapes
/// logits (…, vocabulary), targets (…) of u32
///
/// # Errors
/// Shapes that do not fit; a target that is neither below the vocabulary nor [`IGNORE`], which on a GPU
/// [`CrossEntropy::read`] tells.
pub fn cross_entropy(logits: Var, targets: &Tensor) -> Result<CrossEntropy> {
    check_operands(&logits, targets)?;
    match logits.device() {
        Device::Cpu => on_cpu(&logits, targets),
        Device::Cuda(_) => on_cuda(logits, targets),
    }
}

fn check_operands(logits: &Var, targets: &Tensor) -> Result<()> {
    if logits.shape().is_empty() || logits.shape().rows() != targets.len() {
        let expected = format!("{} values, one a row of the logits", logits.shape().rows());
        return Err(Error::shape(OP, "targets", expected, targets.shape()));
    }
    check::range(OP, "the number of targets", 0..1 << 32, targets.len())?;
    check::device(OP, "targets", logits.device(), targets.device())
}

fn on_cpu(logits: &Var, targets: &Tensor) -> Result<CrossEntropy> {
    let vocabulary = logits.shape().cols();
    let ids = targets.as_slice::<u32>()?;
    check_targets(ids, vocabulary)?;
    let mut norms = Tensor::empty([ids.len(), 2], DType::F32, Device::Cpu)?;
    let values = logits.tensor()?.as_slice()?;
    let (rows, _) = norms.make_mut()?.as_chunks_mut();
    let totals = cpu::forward(values, ids, vocabulary, rows);
    let loss = Tensor::full([1], totals.mean() as f32, Device::Cpu)?;
    let keep = || CpuKept {
        logits: logits.detach(),
        targets: targets.clone(),
        norms,
        count: totals.count,
    };
    let loss = record(OP, &[Some(logits)], loss, keep, backward_on_cpu)?;
    let totals = Tensor::from_slice([WORDS], &totals.words(), Device::Cpu)?;
    Ok(CrossEntropy { loss, totals })
}

struct CpuKept {
    logits: Var,
    targets: Tensor,
    /// (rows, 2)
    norms: Tensor,
    count: usize,
}

/// dlogits = (softmax - onehot(target)) · dloss / count, 0 where the target is ignored.
fn backward_on_cpu(
    kept: CpuKept,
    dloss: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let scale = dloss.as_slice::<f32>()?[0] / kept.count.max(1) as f32;
    let vocabulary = kept.logits.shape().cols();
    let (targets, norms) = (kept.targets.as_slice()?, kept.norms.as_slice()?);
    let (rows, _) = norms.as_chunks();
    let mut gradient = kept.logits.into_tensor()?;
    cpu::backward(gradient.make_mut()?, targets, vocabulary, rows, scale);
    context.add(0, gradient)
}

/// A GPU computes the gradient together with the loss, while the row is in its caches.
fn on_cuda(logits: Var, targets: &Tensor) -> Result<CrossEntropy> {
    let device = logits.device();
    let mut totals = Tensor::empty([WORDS], DType::U32, device)?;
    let mut loss = Tensor::empty([1], DType::F32, device)?;
    let pass = cuda::Pass::new(
        logits.view(),
        targets.view(),
        totals.view_mut()?,
        loss.view_mut()?,
    )?;
    let gradient = Rc::new(Cell::new(None));
    let is_tracked = tracked(&[Some(&logits)]);
    // Recorded first: after that nothing but the values themselves is needed, and this is their last holder.
    let keep = || Rc::clone(&gradient);
    let loss = record(OP, &[Some(&logits)], loss, keep, backward_on_cuda)?;
    let mut values = logits.into_tensor()?;
    // SAFETY: the pass was made for these logits' sizes; its targets, totals and loss are alive.
    unsafe {
        if is_tracked {
            pass.gradient_over(values.view_mut()?)?;
            gradient.set(Some(values));
        } else {
            pass.loss_of(values.view())?;
        }
    }
    Ok(CrossEntropy { loss, totals })
}

/// dlogits = dloss · ∂loss/∂logits, which is there already.
fn backward_on_cuda(
    gradient: Rc<Cell<Option<Tensor>>>,
    dloss: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let Some(mut gradient) = gradient.take() else {
        return Ok(());
    };
    cuda::scale(gradient.view_mut()?, dloss.view())?;
    context.add(0, gradient)
}
