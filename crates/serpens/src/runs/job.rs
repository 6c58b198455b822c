//! The training of one model.

use std::path::PathBuf;

use serpens_core::Device;
use serpens_core::files::make_folders;
use serpens_data::Prefetch;
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::{MambaLm, MambaLmConfig, Module};
use serpens_train::{
    CHECKPOINTS_DIR, Error as TrainError, Evaluate, Evaluation, Event, JsonLines, NextToken,
    Observer, Saved, Trainer, newest_checkpoint,
};

use super::Run;
use super::models::load;
use crate::Result;
use crate::progress::Progress;
use crate::stop::STOP;
use crate::tasks::trained::Trained;

/// Batches that are prepared ahead.
const AHEAD: usize = 4;
/// The folder of the trained model, in the job's own.
const MODEL: &str = "model";

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

    /// What was saved of this model, with the changes that were asked for. Refuses to go on otherwise than it began.
    pub(super) fn saved(&self) -> Result<Option<Saved>> {
        let (run, recipe) = (self.run, &self.run.recipe);
        let Some(saved) = Saved::newest(&self.dir)? else {
            let none = newest_checkpoint(&self.dir)?.is_none();
            let path = self.dir.join(CHECKPOINTS_DIR);
            return match none && self.dir.join(MODEL).exists() {
                true => Err(TrainError::NoCheckpoint(path).into()),
                false => Ok(None), // it ended before its first, or will say what is wrong with all
            };
        };
        let source = run.task.source().description();
        let saved = saved.changed(&run.changes, &recipe.train, &run.identity(), &source)?;
        Ok(Some(saved))
    }

    /// Trains the model, unless that was done before; saves it as `model/`.
    pub(super) fn train(&self) -> Result<Trained> {
        make_folders(&self.dir)?;
        let (saved, metrics) = (self.dir.join(MODEL), self.dir.join("metrics.jsonl"));
        let trainer = self.trainer()?;
        let lines = JsonLines::open(&metrics, trainer.step())?;
        // One that is not whole is saved again.
        let done = trainer
            .is_finished()
            .then(|| load(&saved, Verify::Digests).ok())
            .flatten();
        let (model, evaluation) = match done {
            Some(model) => (self.placed(model)?, None),
            None => {
                let (model, evaluation) = self.train_to_the_end(trainer, lines)?;
                checkpoint::save(&model, &saved)?;
                (model, evaluation)
            }
        };
        Trained::new(self.name, model, evaluation, &metrics)
    }

    /// A trainer at the newest checkpoint, or at the beginning.
    fn trainer(&self) -> Result<Trainer> {
        let (run, recipe) = (self.run, &self.run.recipe);
        let source = Box::new(Prefetch::new(run.task.source(), AHEAD)?);
        let trainer = match newest_checkpoint(&self.dir)? {
            Some(_) => Trainer::resume(NextToken, &self.dir, source, run.changes)?,
            None => {
                let model = self.model.init(Device::cpu(), recipe.seed)?;
                Trainer::new(NextToken, model, source, recipe.train.clone())?
            }
        };
        Ok(trainer.with_recipe(&run.identity()).on(run.compute)?)
    }

    /// The model where the run computes.
    fn placed(&self, mut model: MambaLm) -> Result<MambaLm> {
        let compute = self.run.compute;
        model.to(compute.device, compute.precision)?;
        Ok(model)
    }

    /// The trained model, and its evaluation after the last step.
    fn train_to_the_end(
        &self,
        mut trainer: Trainer,
        lines: JsonLines,
    ) -> Result<(MambaLm, Option<Evaluation>)> {
        let (run, task) = (self.run, &*self.run.task);
        let mut progress = Progress::new(run.mode, self.name, task, run.compute.device);
        if let Some(error) = lines.broken() {
            progress.event(&Event::Warned(&error))?;
        }
        let mut heard_by = (progress, lines);
        let mut validation = task.validation(self.name, run.mode);
        let outcome = trainer.run(serpens_train::Run {
            dir: Some(&self.dir),
            observer: &mut heard_by,
            stop: &STOP,
            evaluate: (validation.as_mut()).map(|hook| &mut **hook as &mut Evaluate<'_, _>),
        })?;
        heard_by.0.finish();
        match (outcome.interrupted, outcome.best) {
            (true, _) => Err(run.interrupted(outcome.step)),
            (false, Some(best)) => Ok((self.placed(load(&best, Verify::Digests)?)?, None)),
            (false, None) => Ok((trainer.into_model(), outcome.evaluation)),
        }
    }
}
