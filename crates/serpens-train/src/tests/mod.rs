//! Tests of whole runs, on models small enough to train in moments.

mod best;
mod checkpoints;
mod evaluation;
mod optimizer;
mod resuming;
mod settings;
mod training;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serpens_core::Device;
use serpens_data::{InductionHeads, InductionHeadsConfig, Source};
use serpens_nn::{MambaLm, MambaLmConfig, Module};

use crate::{
    Changes, Evaluation, Event, NextToken, Observer, OptimizerConfig, Result, Run, StepMetrics,
    TrainConfig, Trainer,
};

const VOCAB: usize = 8;

/// A stop flag that nobody sets.
static ON: AtomicBool = AtomicBool::new(false);

fn model(vocab: usize) -> MambaLm {
    let config = MambaLmConfig::new(16, 2, vocab);
    config.init(Device::cpu(), 1).unwrap()
}

fn task() -> InductionHeads {
    InductionHeads::new(InductionHeadsConfig {
        vocab: VOCAB,
        batch: 4,
        lengths: vec![16, 32],
        seed: 3,
    })
    .unwrap()
}

/// Settings under which everything is told of every step.
fn settings(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        log_every: 1,
        optimizer: OptimizerConfig {
            lr: 3e-3,
            ..OptimizerConfig::default()
        },
        ..TrainConfig::default()
    }
}

fn trainer(config: TrainConfig) -> Trainer {
    trainer_on(Box::new(task()), config)
}

fn trainer_on(source: Box<dyn Source>, config: TrainConfig) -> Trainer {
    Trainer::new(NextToken, model(VOCAB), source, config).unwrap()
}

/// The run in `run_dir` that goes on over the same task.
fn go_on_in(run_dir: &Path, changes: Changes) -> Trainer {
    Trainer::resume(NextToken, run_dir, Box::new(task()), changes, None).unwrap()
}

/// Remembers what it heard.
#[derive(Default)]
struct Heard {
    steps: Vec<StepMetrics>,
    evaluations: Vec<(u64, Evaluation)>,
    checkpoints: Vec<u64>,
    warnings: Vec<String>,
}

impl Observer for Heard {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Started { .. } | Event::Checkpointing => {}
            Event::Stepped(metrics) => self.steps.push((*metrics).clone()),
            Event::Evaluated { step, evaluation } => {
                self.evaluations.push((*step, (*evaluation).clone()));
            }
            Event::Checkpointed { step, .. } => self.checkpoints.push(*step),
            Event::Warned(error) => self.warnings.push(error.to_string()),
        }
        Ok(())
    }
}

impl Heard {
    /// What is the same whenever a step is taken.
    fn figures(&self) -> Vec<(u64, u64, u64, u64)> {
        let figures = |m: &StepMetrics| {
            (
                m.step,
                m.loss.to_bits(),
                m.accuracy.to_bits(),
                m.grad_norm.to_bits(),
            )
        };
        self.steps.iter().map(figures).collect()
    }
}

/// Runs to the end without evaluation.
fn run(trainer: &mut Trainer, dir: Option<&Path>) -> Result<Heard> {
    let mut heard = Heard::default();
    trainer.run(Run {
        dir,
        observer: &mut heard,
        stop: &ON,
        evaluate: None,
    })?;
    Ok(heard)
}

/// Every parameter's bits.
fn bits(model: &impl Module) -> Vec<(String, Vec<u32>)> {
    let mut all = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        let values = param.value()?.as_slice::<f32>()?;
        all.push((
            name.to_owned(),
            values.iter().map(|x| x.to_bits()).collect(),
        ));
        Ok(())
    });
    visited.unwrap();
    all
}

/// The bits of every moment.
fn moment_bits(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let state = trainer.engine.learner.optimizer.state();
    let values = state.into_iter().map(|(name, tensor)| {
        let values = tensor.as_slice::<f32>().unwrap();
        (name, values.iter().map(|x| x.to_bits()).collect())
    });
    values.collect()
}
