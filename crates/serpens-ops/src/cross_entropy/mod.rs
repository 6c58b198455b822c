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
//! Logits and gradients are f32, targets u32. The backward pass turns the logits into their gradient in place:
//! the largest tensor of a language model exists once. Rows that are ignored have loss 0 and gradient 0; where every
//! row is ignored the loss is 0 with a count of 0. A logit of −∞ is a probability of 0; NaN and +∞ give a loss of NaN.
//!
//! Results do not depend on the number of threads: rows are halved down to blocks that depend on the shape only, and
//! the partial sums are added in f64 along the same tree.

pub mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Error, Result, Tensor, Var};

pub use cpu::IGNORE;

const OP: &str = "cross_entropy";

/// What [`cross_entropy`] gives.
pub struct CrossEntropy {
    /// The mean over the counted positions, one value; 0 where none counts.
    pub loss: Var,
    /// The sum over the counted positions, in nats.
    pub sum: f64,
    /// Number of counted positions.
    pub count: usize,
    /// Counted positions whose largest logit is the target's.
    pub correct: usize,
}

/// The mean of `-log softmax(logits)[target]` over the positions whose target is not [`IGNORE`].
///
/// The logits are given up: once their last other holder is gone, the backward pass writes their gradient over them, so that
/// there is never a second tensor of that size.
///
/// # Shapes
/// logits (…, vocabulary), targets (…) of u32
///
/// # Errors
/// Shapes that do not fit; a target that is neither below the vocabulary nor [`IGNORE`].
pub fn cross_entropy(logits: Var, targets: &Tensor) -> Result<CrossEntropy> {
    let vocabulary = logits.shape().cols();
    if logits.shape().is_empty() || logits.shape().rows() != targets.len() {
        return Err(Error::shape(
            OP,
            "targets",
            format!("{} values, one a row of the logits", logits.shape().rows()),
            targets.shape(),
        ));
    }
    let ids = targets.as_slice::<u32>()?;
    if let Err(at) = cpu::check_targets(ids, vocabulary) {
        return Err(Error::argument(
            OP,
            format!(
                "target {} is outside the vocabulary of {vocabulary}",
                ids[at]
            ),
        ));
    }
    let mut lse = Tensor::empty([ids.len()], DType::F32, targets.device())?;
    let values = logits.tensor()?.as_slice()?;
    let sums = cpu::forward(values, ids, vocabulary, lse.make_mut()?);
    let mean = sums.sum / sums.count.max(1) as f64;
    let loss = Tensor::full([1], mean as f32, targets.device())?;
    let operation = tracked(&[Some(&logits)]).then(|| {
        Box::new(CrossEntropyBackward {
            logits: logits.detach(),
            targets: targets.clone(),
            lse,
            count: sums.count,
        }) as Box<dyn Backward>
    });
    let [loss] = record(OP, &[Some(&logits)], [loss], operation)?;
    Ok(CrossEntropy {
        loss,
        sum: sums.sum,
        count: sums.count,
        correct: sums.correct,
    })
}

/// dlogits = (softmax - onehot(target)) · dloss / count, 0 where the target is ignored.
struct CrossEntropyBackward {
    logits: Var,
    targets: Tensor,
    lse: Tensor,
    count: usize,
}

impl Backward for CrossEntropyBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dloss) = context.take_output(0) else {
            return Ok(());
        };
        let scale = dloss.as_slice::<f32>()?[0] / self.count.max(1) as f32;
        let vocabulary = self.logits.shape().cols();
        let mut gradient = self.logits.into_tensor()?;
        cpu::backward(
            gradient.make_mut()?,
            self.targets.as_slice()?,
            vocabulary,
            self.lse.as_slice()?,
            scale,
        );
        context.add(0, gradient)
    }
}
