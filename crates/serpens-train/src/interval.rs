//! Sums over the steps between two events of metrics.

use serde::{Deserialize, Serialize};

use crate::StepMetrics;

/// Sums over some steps. They are part of a checkpoint, so that a resumed run reports what an unbroken one would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interval {
    pub(crate) steps: u64,
    pub(crate) batches: usize,
    pub(crate) tokens: usize,
    /// Σ of the lengths of the sequences that each token stood in.
    #[serde(default)]
    pub(crate) lengths: usize,
    /// Sum of the batches' mean losses, in nats.
    pub(crate) loss: f64,
    pub(crate) correct: usize,
    pub(crate) counted: usize,
    pub(crate) seconds: f64,
    /// Of the last step.
    pub(crate) lr: f32,
    /// Of the last step.
    pub(crate) grad_norm: f64,
}

impl Interval {
    /// Appends the steps of `later`.
    pub(crate) fn add(&mut self, later: &Interval) {
        self.steps += later.steps;
        self.batches += later.batches;
        self.tokens += later.tokens;
        self.lengths += later.lengths;
        self.loss += later.loss;
        self.correct += later.correct;
        self.counted += later.counted;
        self.seconds += later.seconds;
        (self.lr, self.grad_norm) = (later.lr, later.grad_norm);
    }

    /// The figures of an interval that ends after step `step` of `steps`; training took `seconds` so far.
    pub(crate) fn metrics(&self, step: u64, steps: u64, seconds: f64) -> StepMetrics {
        let pace = self.seconds / self.steps.max(1) as f64;
        StepMetrics {
            step,
            steps,
            loss: self.loss / self.batches.max(1) as f64,
            accuracy: self.correct as f64 / self.counted.max(1) as f64,
            lr: self.lr,
            grad_norm: self.grad_norm,
            tokens_per_second: self.tokens as f64 / self.seconds.max(1e-9),
            mfu: None,
            memory: 0,
            seconds,
            seconds_left: steps.saturating_sub(step) as f64 * pace,
        }
    }
}
