//! What can be trained: a file for each task, and the one list of them.

mod classify;
mod forecast;
mod induction_heads;
pub(crate) mod kind;
mod reads;
mod results;
pub(crate) mod selection;
mod selective_copying;
mod text;
mod tokenizer_setting;
pub(crate) mod trained;
pub(crate) mod written;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::{Labels, Source, Tokenizer};
use serpens_report::{LineChart, Scale};
use serpens_train::{Evaluate, NextToken, Objective, Predict, StepMetrics};
use smart_default::SmartDefault;

use crate::Result;
use crate::output::{OutputMode, significant};
use kind::Kind;
use selection::Sample;
use trained::{Trained, chart, series};

pub(crate) use classify::read as read_records;
pub(crate) use reads::{Named, Reads};
pub(crate) use results::Results;
pub(crate) use tokenizer_setting::TokenizerSetting;

/// Positions that a model reads at a time, with carried state, where the recipe does not say.
pub(crate) const READ_LENGTH: usize = 512;

/// Declares the settings of all tasks, by the name that a recipe calls them.
macro_rules! tasks {
    ($($(#[$about:meta])* $kind:literal => $task:ident($settings:ty),)+) => {
        /// What is learnt: a task and its settings.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", expecting = "a table with a kind, as { kind = \"text\" }")]
        pub enum TaskConfig {
            $($(#[$about])* #[serde(rename = $kind)] $task($settings),)+
        }

        impl TaskConfig {
            /// The task's name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$task(settings) => settings.name($kind),)+
                }
            }

            pub(crate) fn settings(&self) -> &dyn TaskSettings {
                match self {
                    $(Self::$task(settings) => settings,)+
                }
            }

            pub(crate) fn settings_mut(&mut self) -> &mut dyn TaskSettings {
                match self {
                    $(Self::$task(settings) => settings,)+
                }
            }
        }
    };
}

tasks! {
    /// Find what followed the special token the first time.
    "induction-heads" => InductionHeads(induction_heads::InductionHeadsConfig),
    /// Repeat the data, leave out the noise.
    "selective-copying" => SelectiveCopying(selective_copying::SelectiveCopyingConfig),
    /// Predict the next token of a text.
    "text" => Text(text::TextConfig),
    /// Tell the class of a record.
    "classify" => Classify(classify::ClassifyConfig),
    /// Tell the next rows of a series.
    "forecast" => Forecast(forecast::ForecastConfig),
}

/// How a model is tested: a table of the recipe in which each task finds what it reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TestConfig {
    /// Lengths of test sequences, for induction heads.
    pub lengths: Vec<usize>,
    /// How many are drawn: sequences of each length for induction heads, batches for selective copying.
    #[default = 16]
    pub samples: usize,
    /// Sequences read side by side, for induction heads.
    #[default = 8]
    pub rows: usize,
    /// Positions read at a time, with carried state, for induction heads.
    #[default(READ_LENGTH)]
    pub chunk: usize,
    /// Tokens of held-out text that are read at most, spread evenly over it, while training and at its end, for text.
    #[default = 500_000]
    pub tokens: usize,
}

/// The settings of a task: what is known of it before its data are opened.
pub(crate) trait TaskSettings {
    /// The task's name, where that of its kind says too little.
    fn name(&self, kind: &'static str) -> &'static str {
        kind
    }

    /// Takes over the run's seed, where the settings keep one.
    fn set_seed(&mut self, _seed: u64) {}

    /// Where the data of a user's own are; `None` for tasks that read none.
    fn data(&mut self) -> Option<&mut Option<String>> {
        None
    }

    /// What makes tokens of them; `None` where none are made of text.
    fn tokenizer(&mut self) -> Option<&mut TokenizerSetting> {
        None
    }

    /// Where their labels are; `None` where none are read.
    fn labels(&mut self) -> Option<&mut Labels> {
        None
    }

    /// The order of a Markov model to compare with; `None` where none is learnt.
    fn baseline(&mut self) -> Option<&mut usize> {
        None
    }

    /// Rows and tokens of each of the largest batch.
    fn largest_batch(&self) -> [usize; 2];

    /// A sequence of the task to show what models select in, if it makes any by itself.
    fn sample(&self) -> Result<Option<Sample>> {
        Ok(None)
    }

    /// Opens the data, and refuses settings that matter later only.
    ///
    /// # Errors
    /// What the data fail with, and settings that the task is not defined for.
    fn open(&self, seed: u64, tests: &TestConfig) -> Result<OpenTask>;
}

/// A task with its data, by what it trains.
pub(crate) enum OpenTask {
    /// Models that write.
    Writes(Box<dyn Task>),
    /// Models that answer.
    Answers(Box<dyn Task<Predict>>),
}

impl OpenTask {
    /// What makes tokens of text, where they are of one.
    pub(crate) fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Writes(task) => task.tokenizer(),
            Self::Answers(task) => task.tokenizer(),
        }
    }
}

/// How a task tells how good a model is while it is trained.
pub(crate) type Validation<'a, O> = Box<Evaluate<'a, <O as Objective>::Model>>;

/// A task with its data.
pub(crate) trait Task<O: Kind = NextToken> {
    /// What stands around the layers of its models.
    fn head(&self) -> O::Head;

    /// What its models are trained to do.
    fn objective(&self) -> O {
        O::default()
    }

    /// The training batches.
    fn source(&self) -> Arc<dyn Source>;

    /// The sizes that a model's vocabulary may have.
    fn vocabulary(&self) -> RangeInclusive<usize> {
        self.source().bounds().inputs..=usize::MAX // models have room for more, up to a round number
    }

    /// What is read, where that is not all in the settings.
    fn about(&self) -> Option<String> {
        None
    }

    /// What makes tokens of text, where they are of one: saved with the models.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    /// Writes what else is needed to ask a model, beside it.
    fn save_beside(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    /// What is read, to show what models do with it; otherwise a beginning of a text of theirs.
    fn sample(&self) -> Result<Option<Sample>> {
        Ok(None)
    }

    /// What tells how good a model of this name is while it is trained, if anything does.
    fn validation(&self, _name: &'static str, _mode: OutputMode) -> Option<Validation<'_, O>> {
        None
    }

    /// How good some training steps were, in a few words.
    fn quality(&self, metrics: &StepMetrics) -> String {
        let (loss, accuracy) = (significant(metrics.loss), 100.0 * metrics.accuracy);
        format!("loss {loss}  accuracy {accuracy:.1} %")
    }

    /// How good the models became while they were trained.
    fn curves(&self, trained: &[Trained<O::Model>]) -> Vec<LineChart> {
        let accuracy = series(trained, |line| line.accuracy);
        let loss = series(trained, |line| line.loss);
        vec![
            LineChart {
                y_range: Some((0.0, 1.0)),
                ..chart("Accuracy in training", "accuracy, %", accuracy)
            },
            LineChart {
                y_scale: Scale::Log10,
                ..chart("Loss in training", "loss, nats", loss)
            },
        ]
    }

    /// Tests every model of a run.
    fn test(&self, trained: &[Trained<O::Model>], mode: OutputMode) -> Result<Results>;

    /// Texts for the report, as models wrote them, with their headings.
    fn texts(&self, _trained: &[Trained<O::Model>]) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Vec::new())
    }
}
