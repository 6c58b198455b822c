//! How far a training has come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::interval::Interval;
use crate::{Evaluation, TrainConfig};

/// A place in a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// The source's description.
    pub(crate) source: String,
    /// Batches read, which is the index of the next.
    pub(crate) batches: u64,
}

/// What a training is besides its tensors; a checkpoint holds it as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: u64,
    /// The place in the source after them.
    pub(crate) position: Position,
    /// Spent in training steps, over all sittings.
    pub(crate) seconds: f64,
    /// (correct, counted) of the last steps, for the stop rule.
    recent: VecDeque<(usize, usize)>,
    /// Sums since the last event of metrics.
    pub(crate) interval: Interval,
    /// The last evaluation and its step.
    pub(crate) evaluation: Option<(u64, Evaluation)>,
    pub(crate) config: TrainConfig,
}

impl State {
    pub(crate) fn new(source: String, config: TrainConfig) -> Self {
        Self {
            step: 0,
            position: Position { source, batches: 0 },
            seconds: 0.0,
            recent: VecDeque::new(),
            interval: Interval::default(),
            evaluation: None,
            config,
        }
    }

    /// Counts a step with these sums.
    pub(crate) fn add(&mut self, step: &Interval) {
        self.step += 1;
        let batches = self.position.batches;
        self.position.batches = batches.wrapping_add(step.batches as u64); // as the source's indices go round
        self.seconds += step.seconds;
        self.interval.add(step);
        if let Some(rule) = self.config.stop {
            self.recent.push_back((step.correct, step.counted));
            while self.recent.len() > rule.steps {
                self.recent.pop_front();
            }
        }
    }

    /// Whether there is nothing more to do.
    pub(crate) fn is_finished(&self) -> bool {
        self.step >= self.config.steps || self.stop_rule_holds()
    }

    fn stop_rule_holds(&self) -> bool {
        let Some(rule) = self.config.stop else {
            return false;
        };
        let sum = |of: fn(&(usize, usize)) -> usize| self.recent.iter().map(of).sum::<usize>();
        let (correct, counted) = (sum(|step| step.0), sum(|step| step.1));
        self.recent.len() == rule.steps
            && counted > 0
            && correct as f64 >= rule.accuracy * counted as f64
    }
}
