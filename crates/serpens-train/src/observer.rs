//! What a run tells while it goes on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Figures of the steps since the last event of this kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean loss: in nats where it is of tokens, classes or labels.
    pub loss: f64,
    /// Share of the counted targets that had the largest logit; 0 of answers that are no classes.
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub lr: f32,
    /// Norm of the gradients of the last step, before clipping.
    pub grad_norm: f64,
    /// Tokens read per second.
    pub tokens_per_second: f64,
    /// Model FLOP utilisation: the share of the device's peak that the model's matrix products make up; unknown on the
    /// processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// The most bytes that were in tensors at one time.
    pub memory: usize,
    /// Seconds spent in training steps so far, over all sittings.
    pub seconds: f64,
    /// Seconds to the last step at this pace.
    pub seconds_left: f64,
}

impl StepMetrics {
    /// The loss in bits: bits per byte where tokens are bytes.
    pub fn bits(&self) -> f64 {
        self.loss / std::f64::consts::LN_2
    }
}

/// The result of an evaluation: named figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Names and values, such as `bits_per_byte`.
    pub values: Vec<(String, f64)>,
}

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Training begins, or goes on, after this step.
    Started {
        /// Steps done before.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Trained values.
        parameters: usize,
    },
    /// Some steps were done.
    Stepped(&'a StepMetrics),
    /// The model was evaluated.
    Evaluated {
        /// Steps done.
        step: u64,
        /// The result.
        evaluation: &'a Evaluation,
    },
    /// A checkpoint is about to be written. What was heard before is not told again by a run that resumes from it: who
    /// keeps it brings it to disk now.
    Checkpointing,
    /// A checkpoint was written.
    Checkpointed {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: &'a Path,
    },
    /// Something failed without ending the run.
    Warned(&'a Error),
}

/// Hears the events of a run.
pub trait Observer {
    /// One event. An error ends the run.
    fn event(&mut self, event: &Event<'_>) -> Result<()>;
}

/// Hears nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _event: &Event<'_>) -> Result<()> {
        Ok(())
    }
}

/// Hears with both.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        self.0.event(event)?;
        self.1.event(event)
    }
}
