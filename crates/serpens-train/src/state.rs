//! How far a training has come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::changes::same;
use crate::interval::Interval;
use crate::seal::Seal;
use crate::{Evaluation, Result, TrainConfig};

/// A place in a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// The source's description.
    pub(crate) source: String,
    /// Batches read, which is the index of the next.
    pub(crate) batches: u64,
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    pub(crate) step: u64,
    figure: f64,
    /// Evaluations after it.
    since: u64,
}

/// What tells one checkpoint from another: its step, that of its last evaluation, and its learning rate.
pub(crate) type SavedAs = (u64, Option<u64>, f32);

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
    pub(crate) recent: VecDeque<(usize, usize)>,
    /// Sums since the last event of metrics.
    pub(crate) interval: Interval,
    /// The last evaluation and its step.
    pub(crate) evaluation: Option<(u64, Evaluation)>,
    #[serde(default)]
    pub(crate) best: Option<Best>,
    pub(crate) config: TrainConfig,
    /// What the program that trains says of the run besides.
    #[serde(default)]
    pub(crate) recipe: Value,
    /// Digests, in a checkpoint.
    #[serde(default, skip_serializing_if = "Seal::is_empty")]
    pub(crate) seal: Seal,
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
            best: None,
            config,
            recipe: Value::Null,
            seal: Seal::new(),
        }
    }

    /// Refuses to go on with another source.
    pub(crate) fn check_source(&self, here: &str) -> Result<()> {
        let saved = self.position.source.as_str();
        same("data", &saved.into(), &here.into())
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

    /// Takes the result of an evaluation after this step.
    pub(crate) fn evaluated(&mut self, evaluation: Evaluation) {
        let figure = evaluation.values.first().map(|(_, figure)| *figure);
        if let (Some(rule), Some(figure)) = (self.config.best, figure) {
            let better = |than: f64| (figure != than) && (figure > than) == rule.more;
            let step = self.step;
            match &mut self.best {
                Some(best) if !better(best.figure) => best.since += 1,
                best => {
                    *best = Some(Best {
                        step,
                        figure,
                        since: 0,
                    })
                }
            }
        }
        self.evaluation = Some((self.step, evaluation));
    }

    /// What it is saved as.
    pub(crate) fn saved_as(&self) -> SavedAs {
        let evaluated = self.evaluation.as_ref().map(|(at, _)| *at);
        (self.step, evaluated, self.config.optimizer.lr)
    }

    /// Whether there is nothing more to do.
    pub(crate) fn is_finished(&self) -> bool {
        self.step >= self.config.steps || self.stop_rule_holds() || self.patience_is_lost()
    }

    fn patience_is_lost(&self) -> bool {
        let rule = self.config.best.filter(|rule| rule.patience > 0);
        rule.is_some_and(|rule| self.best.is_some_and(|best| best.since >= rule.patience))
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
