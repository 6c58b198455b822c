//! The training of one model.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serpens_core::Device;
use serpens_data::{
    ByteCorpus, ByteSource, ByteSourceConfig, InductionHeads, Prefetch, SelectiveCopying, Source,
    Split,
};
use serpens_nn::{MambaLm, MambaLmConfig, checkpoint};
use serpens_train::{
    Compute, Evaluation, JsonLines, NextToken, Run, Trainer, evaluate, newest_checkpoint,
};

use super::folder::save_settings;
use crate::commands::{check_loadable, load};
use crate::progress::{OutputMode, Progress};
use crate::recipe::{Recipe, Task};
use crate::{Error, Result};

/// Batches that are prepared ahead.
const AHEAD: usize = 4;
/// How validation text is read while training.
pub(super) const STREAMS: usize = 8;
pub(super) const PIECE: usize = 512;

/// A model to train in a folder.
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) model: MambaLmConfig,
    /// The model's own folder.
    pub(super) dir: PathBuf,
    /// The run's.
    pub(super) run: PathBuf,
    /// Where and how.
    pub(super) compute: Compute,
}

/// A trained model and the story of its training.
pub(super) struct Trained {
    pub(super) name: &'static str,
    pub(super) model: MambaLm,
    pub(super) steps: Vec<StepLine>,
    pub(super) evaluations: Vec<EvaluationLine>,
}

impl Trained {
    pub(super) fn seconds(&self) -> f64 {
        self.steps.last().map_or(0.0, |line| line.seconds)
    }
}

/// What the report needs of a line of metrics.
#[derive(Debug, Deserialize)]
pub(super) struct StepLine {
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) accuracy: f64,
    pub(super) tokens_per_second: f64,
    pub(super) seconds: f64,
}

/// An evaluation among the lines of metrics.
#[derive(Debug, Deserialize)]
pub(super) struct EvaluationLine {
    pub(super) step: u64,
    pub(super) evaluation: std::collections::BTreeMap<String, f64>,
}

/// The text of the task, if it reads one.
pub(super) fn corpus(task: &Task) -> Result<Option<ByteCorpus>> {
    let Task::Text(text) = task else {
        return Ok(None);
    };
    let Some(data) = &text.data else {
        return Err(Error::Usage {
            option: "--data",
            reason: "the text task reads a text: give a file, a folder or a glob".into(),
        });
    };
    let corpus = ByteCorpus::open(data)?.with_validation_fraction(text.validation)?;
    Ok(Some(corpus))
}

/// The task's training batches.
pub(super) fn source(recipe: &Recipe, corpus: Option<&ByteCorpus>) -> Result<Box<dyn Source>> {
    Ok(match (&recipe.task, corpus) {
        (Task::InductionHeads(task), _) => Box::new(InductionHeads::new(task.clone())?),
        (Task::SelectiveCopying(task), _) => Box::new(SelectiveCopying::new(task.clone())?),
        (Task::Text(text), Some(corpus)) => {
            let config = ByteSourceConfig {
                batch: text.batch,
                length: text.length,
                seed: recipe.seed,
            };
            Box::new(ByteSource::new(corpus, config)?)
        }
        (Task::Text(_), None) => unreachable!("a text task has opened its corpus"),
    })
}

impl Job {
    /// Trains the model, unless that was done before; saves it as `model/`.
    pub(super) fn run(
        &self,
        recipe: &Recipe,
        corpus: Option<&ByteCorpus>,
        mode: OutputMode,
        resuming: bool,
        stop: &AtomicBool,
    ) -> Result<Trained> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("write", &self.dir, e))?;
        let saved = self.dir.join("model");
        let metrics = self.dir.join("metrics.jsonl");
        let newest = newest_checkpoint(&self.dir)?.filter(|_| resuming);
        // The weights are the last that is written of a model.
        if resuming && saved.join(checkpoint::WEIGHTS_FILE).exists() {
            let steps = newest.as_ref().map_or(u64::MAX, |(step, _)| *step);
            if steps >= recipe.train.steps {
                let mut model = load(&saved)?;
                model.to(self.compute.device, self.compute.precision)?;
                return self.finished(model, &metrics);
            }
        }
        let source = Box::new(Prefetch::new(source(recipe, corpus)?, AHEAD)?);
        let trainer = if let Some((_, newest)) = newest {
            check_loadable(&newest)?;
            let trainer = Trainer::resume(NextToken, &self.dir, source, Some(recipe.train.steps))?;
            save_settings(&self.run, recipe)?;
            trainer
        } else {
            Trainer::new(
                NextToken,
                self.model.init(Device::cpu(), recipe.seed)?,
                source,
                recipe.train.clone(),
            )?
        };
        let mut trainer = trainer.on(self.compute)?;
        let mut progress = Progress::new(mode, self.name, corpus.is_some(), self.compute.device);
        let mut lines = JsonLines::open(&metrics, trainer.step())?;
        let mut hook = |model: &MambaLm| validation(model, corpus);
        let outcome = trainer.run(Run {
            dir: Some(&self.dir),
            observer: &mut (&mut progress, &mut lines),
            stop,
            evaluate: corpus.is_some().then_some(&mut hook),
        })?;
        progress.finish();
        if outcome.interrupted {
            return Err(Error::Interrupted {
                step: outcome.step,
                dir: self.run.clone(),
            });
        }
        let model = trainer.into_model();
        checkpoint::save(&model, &saved)?;
        self.finished(model, &metrics)
    }

    fn finished(&self, model: MambaLm, metrics: &Path) -> Result<Trained> {
        let text = fs::read_to_string(metrics).map_err(|e| Error::io("read", metrics, e))?;
        let lines = text.lines();
        Ok(Trained {
            name: self.name,
            model,
            steps: lines
                .clone()
                .filter_map(|l| serde_json::from_str(l).ok())
                .collect(),
            evaluations: lines.filter_map(|l| serde_json::from_str(l).ok()).collect(),
        })
    }
}

/// Bits per byte on the held-out text.
fn validation(model: &MambaLm, corpus: Option<&ByteCorpus>) -> serpens_train::Result<Evaluation> {
    let Some(corpus) = corpus else {
        return Ok(Evaluation::default());
    };
    let bits = evaluate::bits_per_byte(model, corpus.slices(Split::Validation, STREAMS, PIECE)?)?;
    Ok(Evaluation {
        values: vec![("bits_per_byte".into(), bits)],
    })
}
