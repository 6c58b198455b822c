//! The training of one model.

use std::path::{Path, PathBuf};

use serpens_core::Device;
use serpens_core::files::make_folders;
use serpens_data::Prefetch;
use serpens_nn::{MambaLm, MambaLmConfig, Module, checkpoint};
use serpens_train::{
    CHECKPOINTS_DIR, Error as TrainError, Evaluate, Evaluation, Event, JsonLines, Observer,
    StepMetrics, TrainedModel, Trainer,
};

use super::Run;
use super::models::load;
use crate::progress::Progress;
use crate::refusal::Refusal;
use crate::stop::STOP;
use crate::tasks::kind::Kind;
use crate::tasks::trained::Trained;
use crate::{Error, Result};

/// Batches that are prepared ahead.
const AHEAD: usize = 4;
/// The folder of the trained model, in the job's own.
const MODEL: &str = "model";
/// That of what low-rank adaptation learnt, alone.
pub(super) const ADAPTER: &str = "adapter";

/// A model of a run to train.
pub(super) struct Job<'a, O: Kind> {
    run: &'a Run<O>,
    name: &'static str,
    model: MambaLmConfig,
    /// The model's own folder.
    dir: PathBuf,
    /// A trainer at the checkpoint that is gone on from, where there is one.
    saved: Option<Trainer<O>>,
    /// The model that it begins with, where that is not drawn.
    init: Option<MambaLm>,
}

fn source<O: Kind>(run: &Run<O>) -> Result<Box<Prefetch>> {
    Ok(Box::new(Prefetch::new(run.task.source(), AHEAD)?))
}

impl<'a, O: Kind> Job<'a, O> {
    /// The model by itself, which begins as `init`, or beside its twin, with the changes that were asked for.
    ///
    /// # Errors
    /// What refuses to go on otherwise than it began.
    pub(super) fn all(run: &'a Run<O>, mut init: Option<MambaLm>) -> Result<Vec<Self>> {
        let dir = &run.folder.path;
        let twin = run.recipe.twin_model();
        let twin = twin.map(|twin| (twin, dir.join("twin")));
        let models = [(run.recipe.model.clone(), dir.clone())];
        let jobs = models.into_iter().chain(twin).map(|(model, dir)| {
            let expected = Some((&run.recipe.train, &run.identity()));
            let resumed = Trainer::resume(
                run.task.objective(),
                &dir,
                source(run)?,
                run.changes,
                expected,
            );
            Ok(Self {
                run,
                name: model.ssm_name(),
                model,
                saved: match resumed {
                    Err(TrainError::NoCheckpoint(_)) if !dir.join(MODEL).exists() => None,
                    Err(TrainError::OtherSettings { field, .. })
                        if field == "data"
                            && run.recipe.task.clone().settings_mut().data().is_some() =>
                    {
                        return Err(Error::refused("--data", Refusal::OtherText));
                    }
                    resumed => Some(resumed?),
                },
                dir,
                init: init.take(),
            })
        });
        jobs.collect()
    }

    /// Brings what was changed to the checkpoint.
    pub(super) fn keep_changes(&mut self) -> Result<()> {
        let mut saved = self.saved.iter_mut();
        Ok(saved.try_for_each(|saved| saved.keep_changes(&self.dir))?)
    }

    /// Trains the model from where it was saved, unless that was its end; saves it as `model/`.
    pub(super) fn train(mut self) -> Result<Trained<O::Model>> {
        self.run.folder.lock().check()?;
        make_folders(&self.dir)?;
        let (model, metrics) = (self.dir.join(MODEL), self.dir.join("metrics.jsonl"));
        let begins_anew = self.saved.is_none() && metrics.exists();
        let trainer = self.trainer()?;
        let lines = JsonLines::open(&metrics, trainer.step())?;
        let told = trainer.is_finished() || trainer.step() >= self.run.recipe.train.log_every;
        let path = self.dir.join(CHECKPOINTS_DIR);
        let warnings = [
            begins_anew.then_some(TrainError::BeginsAnew(path)),
            lines.missing().filter(|_| told),
            lines.broken(),
        ];
        let (run, device) = (self.run, self.run.compute.device);
        let quality = |metrics: &StepMetrics| run.task.quality(metrics);
        let mut progress = Progress::new(run.mode, self.name, &quality, device);
        for warning in warnings.iter().flatten() {
            progress.event(&Event::Warned(warning))?;
        }
        // One that is not whole is saved again.
        let saved = || load::<O::Model>(&model, run.changes.verify).ok();
        let done = trainer.is_finished().then(saved).flatten();
        let (model, evaluation) = match done {
            Some(model) => (self.placed(model)?, None),
            None => {
                let (trained, evaluation) = self.train_to_the_end(trainer, progress, lines)?;
                self.save(&trained, &model)?;
                (trained, evaluation)
            }
        };
        Trained::new(self.name, model, evaluation, &metrics)
    }

    /// Saves the model last: where it is whole, everything is there.
    fn save(&self, trained: &O::Model, model: &Path) -> Result<()> {
        make_folders(model)?;
        if let Some(tokenizer) = self.run.task.tokenizer() {
            tokenizer.save(model)?;
        }
        self.run.task.save_beside(model)?;
        if let (Some(init), Some(adapted)) = (&self.run.recipe.init, O::adapted(trained)) {
            let base = init.path.to_string_lossy().into_owned();
            checkpoint::save_adapter(adapted, &self.dir.join(ADAPTER), Some(base))?;
        }
        Ok(trained.save(model)?)
    }

    /// A trainer where the run computes, which goes on from what was saved, or begins.
    fn trainer(&mut self) -> Result<Trainer<O>> {
        let (run, recipe) = (self.run, &self.run.recipe);
        let trainer = match self.saved.take() {
            Some(trainer) => trainer,
            None => {
                let model = match self.init.take() {
                    Some(mut model) => {
                        if let Some(lora) = &recipe.lora {
                            model.adapt(lora.clone(), recipe.seed)?;
                        }
                        O::of(model, run.task.head(), recipe.seed)?
                    }
                    None => {
                        let plan = O::plan(&self.model, run.task.head())?;
                        plan.init(Device::cpu(), recipe.seed)?
                    }
                };
                Trainer::new(
                    run.task.objective(),
                    model,
                    source(run)?,
                    recipe.train.clone(),
                )?
            }
        };
        Ok(trainer.with_recipe(&run.identity()).on(run.compute)?)
    }

    /// The model where the run computes.
    fn placed(&self, mut model: O::Model) -> Result<O::Model> {
        let compute = self.run.compute;
        model.to(compute.device, compute.precision)?;
        Ok(model)
    }

    /// The trained model, and its evaluation after the last step.
    fn train_to_the_end(
        &self,
        mut trainer: Trainer<O>,
        progress: Progress<'_>,
        lines: JsonLines,
    ) -> Result<(O::Model, Option<Evaluation>)> {
        let (run, task) = (self.run, &*self.run.task);
        let mut heard_by = (progress, (run.folder.lock(), lines));
        let mut validation = task.validation(self.name, run.mode);
        let outcome = trainer.run(serpens_train::Run {
            dir: Some(&self.dir),
            observer: &mut heard_by,
            stop: &STOP,
            evaluate: (validation.as_mut()).map(|hook| &mut **hook as &mut Evaluate<'_, _>),
        })?;
        let mut progress = heard_by.0;
        progress.finish(outcome.step);
        run.folder.lock().check()?;
        if outcome.interrupted {
            return Err(run.interrupted(outcome.step));
        }
        let last = (trainer.into_model(), outcome.evaluation);
        let Some(path) = outcome.best else {
            return Ok(last);
        };
        let best = O::Model::load(&path, run.changes.verify);
        match best.map_err(TrainError::from) {
            Err(error) if error.is_damage() => {
                let source = Box::new(error);
                progress.event(&Event::Warned(&TrainError::PassedOver { path, source }))?;
                Ok(last)
            }
            best => Ok((self.placed(best?)?, None)),
        }
    }
}
