//! The training of one model.

use std::fs;
use std::path::{Path, PathBuf};

use serpens_core::Device;
use serpens_data::Prefetch;
use serpens_nn::{MambaLm, MambaLmConfig, checkpoint};
use serpens_train::{Evaluate, JsonLines, NextToken, Trainer, newest_checkpoint};

use super::{Run, STOP};
use crate::models::{check_loadable, load};
use crate::progress::Progress;
use crate::trained::Trained;
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
    pub(super) fn all(run: &'a Run) -> Vec<Self> {
        let job = |model: MambaLmConfig, dir: PathBuf| Self {
            run,
            name: model.ssm_name(),
            model,
            dir,
        };
        let dir = &run.folder.path;
        let mut jobs = vec![job(run.recipe.model.clone(), dir.clone())];
        jobs.extend(
            run.recipe
                .twin_model()
                .map(|twin| job(twin, dir.join("twin"))),
        );
        jobs
    }

    /// Trains the model, unless that was done before; saves it as `model/`.
    pub(super) fn train(&self) -> Result<Trained> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("write", &self.dir, e))?;
        let (saved, metrics) = (self.dir.join("model"), self.dir.join("metrics.jsonl"));
        let newest = newest_checkpoint(&self.dir)?.filter(|_| self.run.resuming);
        let step = newest.as_ref().map(|(step, _)| *step);
        if let Some(model) = self.finished_before(&saved, step)? {
            return Trained::new(self.name, model, &metrics);
        }
        let trainer = self.trainer(newest.as_ref().map(|(_, dir)| dir.as_path()))?;
        let model = self.train_to_the_end(trainer, &metrics)?;
        checkpoint::save(&model, &saved)?;
        Trained::new(self.name, model, &metrics)
    }

    /// The model, where the run that is gone on with had trained it to its last step.
    fn finished_before(&self, saved: &Path, newest: Option<u64>) -> Result<Option<MambaLm>> {
        // The weights are the last that is written of a model.
        let whole = saved.join(checkpoint::WEIGHTS_FILE).exists();
        let finished = newest.is_none_or(|step| step >= self.run.recipe.train.steps);
        if !(self.run.resuming && whole && finished) {
            return Ok(None);
        }
        let mut model = load(saved)?;
        model.to(self.run.compute.device, self.run.compute.precision)?;
        Ok(Some(model))
    }

    /// A trainer at the newest checkpoint, or at the beginning.
    fn trainer(&self, newest: Option<&Path>) -> Result<Trainer> {
        let Run {
            recipe,
            task,
            folder,
            compute,
            ..
        } = self.run;
        let source = Box::new(Prefetch::new(task.source()?.into(), AHEAD)?);
        let trainer = match newest {
            Some(newest) => {
                check_loadable(newest)?;
                let steps = Some(recipe.train.steps);
                let trainer = Trainer::resume(NextToken, &self.dir, source, steps)?;
                folder.save_settings(recipe)?;
                trainer
            }
            None => {
                let model = self.model.init(Device::cpu(), recipe.seed)?;
                Trainer::new(NextToken, model, source, recipe.train.clone())?
            }
        };
        Ok(trainer.on(*compute)?)
    }

    fn train_to_the_end(&self, mut trainer: Trainer, metrics: &Path) -> Result<MambaLm> {
        let Run {
            task,
            compute,
            mode,
            ..
        } = self.run;
        let progress = Progress::new(*mode, self.name, &**task, compute.device);
        let mut heard_by = (progress, JsonLines::open(metrics, trainer.step())?);
        let mut validation = task.validation();
        let outcome = trainer.run(serpens_train::Run {
            dir: Some(&self.dir),
            observer: &mut heard_by,
            stop: &STOP,
            evaluate: (validation.as_mut()).map(|hook| &mut **hook as &mut Evaluate<'_, _>),
        })?;
        heard_by.0.finish();
        match outcome.interrupted {
            true => Err(self.run.interrupted(outcome.step)),
            false => Ok(trainer.into_model()),
        }
    }
}
