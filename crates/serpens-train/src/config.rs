//! The settings of a training run.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serpens_nn::Module;
use smart_default::SmartDefault;

use crate::{Error, OptimizerConfig, Result};

/// How the learning rate goes on after the warm-up. Where it falls, the last step has exactly `min_lr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls along half a cosine to `min_lr`.
    Cosine,
    /// It falls along a straight line to `min_lr`.
    Linear,
    /// Warm-up, stable, decay: it stays, and falls along a straight line to `min_lr` in the last steps, `decay`.
    Wsd,
}

/// How long a phase of training is: `200` steps, or with a decimal point a share of all steps, such as `0.25`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a number of steps, or a share of all steps such as 0.25"
)]
pub enum Phase {
    /// So many steps.
    Steps(u64),
    /// This share of all steps, in 0..=1.
    Share(f64),
}

impl Phase {
    /// Its length in steps, of a training of `steps` steps.
    pub fn of(self, steps: u64) -> u64 {
        match self {
            Self::Steps(count) => count,
            Self::Share(share) => (share * steps as f64).round() as u64,
        }
    }
}

/// Ends training before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ accuracy = 0.99, steps = 100 }")]
pub struct StopRule {
    /// When the accuracy over the last steps reaches this, in 0..=1.
    pub accuracy: f64,
    /// How many steps are looked at.
    pub steps: usize,
}

/// Which evaluation was the best, by its first figure. Its checkpoint is kept beside the last ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "{ more = true }")]
pub struct BestRule {
    /// Whether more is better, as of an accuracy, or less, as of a loss.
    pub more: bool,
    /// Evaluations in a row without a better one that end the training; 0 for none.
    pub patience: u64,
}

/// Settings of a [`crate::Trainer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    #[default = 1000]
    pub steps: u64,
    /// Batches whose gradients make one step.
    #[default = 1]
    pub accumulation: u64,
    /// How long the learning rate rises to `optimizer.lr`.
    #[default(Phase::Steps(0))]
    pub warmup: Phase,
    /// What it does then.
    pub schedule: Schedule,
    /// How long it falls at the end of [`Schedule::Wsd`].
    #[default(Phase::Share(0.2))]
    pub decay: Phase,
    /// The learning rate of the last step, where the schedule falls.
    pub min_lr: f32,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// Parameters that training leaves as they are, by names that [`serpens_nn::Module::set_frozen`] takes.
    pub freeze: Vec<String>,
    /// Steps between two lines of metrics.
    #[default = 10]
    pub log_every: u64,
    /// Steps between two evaluations; 0 for one at the end only.
    pub eval_every: u64,
    /// Steps between two checkpoints; 0 for one at the end only.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    #[default = 2]
    pub keep: usize,
    /// Ends training early.
    pub stop: Option<StopRule>,
    /// Keeps the best model, which is the one that the training is for.
    pub best: Option<BestRule>,
}

impl TrainConfig {
    /// The learning rate of step `step` (from 0): linear warm-up, then the schedule.
    pub fn learning_rate(&self, step: u64) -> f32 {
        let (peak, end) = (f64::from(self.optimizer.lr), f64::from(self.min_lr));
        let (step, steps) = (step + 1, self.steps);
        let warmup = self.warmup.of(steps);
        if step <= warmup {
            return (peak * step as f64 / warmup as f64) as f32;
        }
        let stable = match self.schedule {
            Schedule::Constant => u64::MAX,
            Schedule::Cosine | Schedule::Linear => warmup,
            Schedule::Wsd => steps.saturating_sub(self.decay.of(steps)).max(warmup),
        };
        let falling = steps.saturating_sub(stable).max(1) as f64;
        let done = (step.saturating_sub(stable) as f64 / falling).min(1.0);
        let left = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            _ => 1.0 - done,
        };
        (end + (peak - end) * left) as f32
    }

    /// Refuses what no training can have.
    ///
    /// # Errors
    /// [`Error::Config`] for the first such setting.
    pub fn check(&self) -> Result<()> {
        let mut optimizer = self.optimizer;
        let peak = 0.0..=f64::from(optimizer.lr);
        let up_to_peak = (peak, "it lies between 0 and optimizer.lr");
        let stop = |rule: StopRule| (rule.accuracy, rule.steps);
        let (accuracy, steps) = self.stop.map_or((1.0, 1), stop);
        let whole = self.steps as f64;
        let phase = |field, phase: Phase| match phase {
            Phase::Steps(count) => (field, count as f64, (0.0..=whole, TOO_LONG)),
            Phase::Share(share) => (field, share, SHARE),
        };
        let rules = [
            ("accumulation", self.accumulation as f64, BATCHES),
            phase("warmup", self.warmup),
            phase("decay", self.decay),
            ("log_every", self.log_every as f64, AT_LEAST_ONE),
            ("keep", self.keep as f64, AT_LEAST_ONE),
            ("min_lr", self.min_lr.into(), up_to_peak),
            ("stop.steps", steps as f64, AT_LEAST_ONE),
            ("stop.accuracy", accuracy, SHARE),
        ];
        let numbers = optimizer.numbers().into_iter();
        let numbers = numbers.map(|(place, number, limits)| (place, f64::from(*number), limits));
        let is_broken = |(_, value, limits): &(_, f64, Limits)| !limits.0.contains(value);
        match numbers.chain(rules).find(is_broken) {
            None => Ok(()),
            Some((field, value, (_, reason))) => {
                let short = value as f32; // most are, and have fewer digits so
                match f64::from(short) == value {
                    true => Err(Error::config(field, short, reason)),
                    false => Err(Error::config(field, value, reason)),
                }
            }
        }
    }

    /// Freezes the parameters that training is to leave as they are.
    ///
    /// # Errors
    /// [`Error::Config`] for names that no parameter of this model has, and where nothing is left to train.
    pub fn freeze(&self, model: &mut impl Module) -> Result<()> {
        let reason = "no parameter's name begins so; a name is as backbone.layers.0.mixer.A_log, of whose words * is any";
        self.freeze.iter().try_for_each(|names| {
            let wrong = |_| Error::config("freeze", format!("[{names:?}]"), reason);
            model.set_frozen(names, true).map_err(wrong)
        })?;
        let (all, reason) = (
            format!("{:?}", self.freeze),
            "no parameter is left to train",
        );
        let left = model.count(|param| param.trained && !param.frozen)?;
        (left > 0)
            .then_some(())
            .ok_or_else(|| Error::config("freeze", all, reason))
    }
}

/// The values that are allowed, and what to say of others.
pub(crate) type Limits = (RangeInclusive<f64>, &'static str);

const TOO_LONG: &str = "it is longer than the training; give a share of the steps, such as 0.1";
const BATCHES: Limits = (
    1.0..=65536.0,
    "a step is made of at least 1 batch and at most 65,536",
);
const AT_LEAST_ONE: Limits = (1.0..=f64::MAX, "it must be at least 1");
pub(crate) const POSITIVE: Limits = (f64::MIN_POSITIVE..=f64::MAX, "it must be finite, above 0");
pub(crate) const NOT_NEGATIVE: Limits = (0.0..=f64::MAX, "it must be finite, not negative");
pub(crate) const DECAY: Limits = (
    0.0..=1.0_f64.next_down(),
    "it lies between 0 and 1, which is excluded",
);
const SHARE: Limits = (0.0..=1.0, "it is a share, between 0 and 1");
