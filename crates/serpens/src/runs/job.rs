//! The training of one model.

use std::fs;
use std::path::{Path, PathBuf};

use serpens_core::Device;
use serpens_data::Prefetch;
use serpens_nn::{MambaLm, MambaLmConfig, checkpoint};
use serpens_train::{Evaluate, Evaluation, JsonLines, NextToken, Trainer, newest_checkpoint};

use super::Run;
use super::models::{check_loadable, load};
use crate::progress::Progress;
use crate::stop::STOP;
use crate::tasks::trained::Trained;
use crate::{Error, Result};

/// Batches that are prepared ahead.
const AHEAD: usize = 4;

/// A model of a run to train.
pub(super) struct Job<'a> {
    run: &'a Run,
    name: &'static str,
    model: MambaLmConfig,
    /// The model's own folder.
    dir: PathBuf,
}

impl<'a> Job<'a> {
    /// The model by itself, or beside its twin.
    pub(super) fn all(run: &'a Run) -> impl Iterator<Item = Self> {
        let dir = &run.folder.path;
        let twin = run.recipe.twin_model();
        let twin = twin.map(|twin| (twin, dir.join("twin")));
        let models = [(run.recipe.model.clone(), dir.clone())];
        models
            .into_iter()
            .chain(twin)
            .map(move |(model, dir)| Self {
                run,
                name: model.ssm_name(),
                model,
                dir,
            })
    }

    /// Trains the model, unless that was done before; saves it as `model/`.
    pub(super) fn train(&self) -> Result<Trained> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("write", &self.dir, e))?;
        let (saved, metrics) = (self.dir.join("model"), self.dir.join("metrics.jsonl"));
        let run = self.run;
        let newest = newest_checkpoint(&self.dir)?.filter(|_| run.resuming);
        let (step, newest) = newest.unzip();
        // The weights are the last that is written of a model.
        let whole = saved.join(checkpoint::WEIGHTS_FILE).exists();
        let at_the_end = step.is_none_or(|step| step >= run.recipe.train.steps);
        let (model, evaluation) = if run.resuming && whole && at_the_end {
            let mut model = load(&saved)?;
            model.to(run.compute.device, run.compute.precision)?;
            (model, None)
        } else {
            let trainer = self.trainer(newest.as_deref())?;
            let (model, evaluation) = self.train_to_the_end(trainer, &metrics)?;
            checkpoint::save(&model, &saved)?;
            (model, evaluation)
        };
        Trained::new(self.name, model, evaluation, &metrics)
    }

    /// A trainer at the newest checkpoint, or at the beginning.
    fn trainer(&self, newest: Option<&Path>) -> Result<Trainer> {
        let (run, recipe) = (self.run, &self.run.recipe);
        let source = Box::new(Prefetch::new(run.task.source(), AHEAD)?);
        let trainer = match newest {
            Some(newest) => {
                check_loadable(newest)?;
                let steps = Some(recipe.train.steps);
                let trainer = Trainer::resume(NextToken, &self.dir, source, steps)?;
                run.folder.save_settings(recipe)?;
                trainer
            }
            None => {
                let model = self.model.init(Device::cpu(), recipe.seed)?;
                Trainer::new(NextToken, model, source, recipe.train.clone())?
            }
        };
        Ok(trainer.on(run.compute)?)
    }

    /// The trained model, and its evaluation after the last step.
    fn train_to_the_end(
        &self,
        mut trainer: Trainer,
        metrics: &Path,
    ) -> Result<(MambaLm, Option<Evaluation>)> {
        let (run, task) = (self.run, &*self.run.task);
        let progress = Progress::new(run.mode, self.name, task, run.compute.device);
        let mut heard_by = (progress, JsonLines::open(metrics, trainer.step())?);
        let mut validation = task.validation(self.name, run.mode);
        let outcome = trainer.run(serpens_train::Run {
            dir: Some(&self.dir),
            observer: &mut heard_by,
            stop: &STOP,
            evaluate: (validation.as_mut()).map(|hook| &mut **hook as &mut Evaluate<'_, _>),
        })?;
        heard_by.0.finish();
        match outcome.interrupted {
            true => Err(run.interrupted(outcome.step)),
            false => Ok((trainer.into_model(), outcome.evaluation)),
        }
    }
}
