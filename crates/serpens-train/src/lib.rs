//! The training loop: optimisers, schedules, checkpoints that resume to the bit, metrics and evaluation.
//!
//! A [`Trainer`] owns a model, its [`Objective`], its optimiser and a source of batches. [`Trainer::run`] trains it,
//! tells an [`Observer`] what happens, and keeps checkpoints in a run's folder, from which [`Trainer::resume`]
//! continues as if nothing had been.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use serpens_core::Device;
//! use serpens_data::{InductionHeads, InductionHeadsConfig};
//! use serpens_nn::MambaLmConfig;
//! use serpens_train::{Changes, NextToken, Run, Silent, TrainConfig, Trainer};
//!
//! # fn main() -> serpens_train::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder for the example");
//! # let dir = folder.path();
//! let task = InductionHeads::new(InductionHeadsConfig { lengths: vec![32], ..Default::default() })?;
//! let model = MambaLmConfig::new(16, 2, 16).init(Device::cpu(), 0)?;
//! let config = TrainConfig { steps: 5, ..Default::default() };
//! let mut trainer = Trainer::new(NextToken, model, Box::new(task.clone()), config)?;
//! let stop = AtomicBool::new(false); // set it, from a signal's handler say, to end the run after the current step
//! trainer.run(Run { dir: Some(dir), observer: &mut Silent, stop: &stop, evaluate: None })?;
//!
//! // Five steps more, from the checkpoint that the first sitting left.
//! let mut resumed = Trainer::resume(NextToken, dir, Box::new(task), Changes::steps(10), None)?;
//! let outcome = resumed.run(Run { dir: Some(dir), observer: &mut Silent, stop: &stop, evaluate: None })?;
//! assert_eq!(outcome.step, 10);
//! # Ok(())
//! # }
//! ```

mod changes;
mod checkpoint;
mod config;
mod engine;
mod error;
pub mod evaluate;
mod feed;
mod interval;
mod json_lines;
mod lock;
pub mod metrics;
mod model;
mod objective;
mod observer;
mod optimizer;
mod predict;
mod rules;
mod seal;
mod state;
#[cfg(test)]
mod tests;
mod trainer;

pub use changes::Changes;
pub use checkpoint::{CHECKPOINTS_DIR, newest as newest_checkpoint};
pub use config::{BestRule, Phase, Schedule, StopRule, TrainConfig};
pub use error::{Damage, Error, Result, go_on};
pub use json_lines::JsonLines;
pub use lock::Lock;
pub use model::TrainedModel;
pub use objective::{Loss, NextToken, Objective};
pub use observer::{Evaluation, Event, Observer, Silent, StepMetrics};
pub use optimizer::Optimizer;
pub use predict::{Deviation, Predict};
pub use rules::{OptimizerConfig, RuleConfig};
pub use trainer::{Compute, Evaluate, Outcome, Run, Trainer};
