//! The loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use serpens_core::{Device, cuda};
use serpens_data::Source;
use serpens_nn::{Module, Precision, Recompute};
use serpens_ops::cross_entropy::Totals;

use crate::changes::{plain, same};
use crate::checkpoint;
use crate::engine::Engine;
use crate::error::go_on;
use crate::interval::Interval;
use crate::objective::{Learner, NextToken, Objective};
use crate::state::{SavedAs, State};
use crate::{
    Changes, Error, Evaluation, Event, Observer, Optimizer, Result, TrainConfig, TrainedModel,
};

/// Where and how a model is trained: in f32 on the processor where nothing is said. No part of a run: a checkpoint
/// continues under any of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// In which types.
    pub precision: Precision,
    /// What is computed again to save memory.
    pub recompute: Recompute,
}

/// A model in training.
pub struct Trainer<O: Objective = NextToken> {
    pub(crate) engine: Engine<O>,
    /// Operations a second of the device's matrix units; unknown on the processor.
    peak: Option<f64>,
    source: Box<dyn Source>,
    pub(crate) state: State,
    /// The last checkpoint read or written.
    saved: Option<SavedAs>,
    /// Why newer checkpoints were passed over; told when the run begins.
    passed: Vec<Error>,
}

/// Says how good a model is; [`Error::Stopped`] where it was asked to end before it knew.
pub type Evaluate<'a, M> = dyn FnMut(&M) -> Result<Evaluation> + 'a;

/// What surrounds a run.
pub struct Run<'a, M> {
    /// Where checkpoints go; none are kept without it.
    pub dir: Option<&'a Path>,
    /// Hears what happens.
    pub observer: &'a mut dyn Observer,
    /// Once set, the run saves a checkpoint and ends: after the current batch, not the current step, whose batches are
    /// read again when it goes on.
    pub stop: &'a AtomicBool,
    /// Called every `eval_every` steps and at the end.
    pub evaluate: Option<&'a mut Evaluate<'a, M>>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether the stop flag ended it.
    pub interrupted: bool,
    /// The last evaluation.
    pub evaluation: Option<Evaluation>,
    /// The checkpoint of the best evaluation, where the settings ask for it.
    pub best: Option<PathBuf>,
}

impl<O: Objective> Trainer<O> {
    /// A trainer at step 0.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that no training can have, or a source with more tokens than the model.
    pub fn new(
        objective: O,
        mut model: O::Model,
        source: Box<dyn Source>,
        config: TrainConfig,
    ) -> Result<Self> {
        config.freeze(&mut model)?;
        let rule = objective.rule(&config.optimizer);
        let learner = Learner {
            objective,
            model,
            optimizer: Optimizer::of(rule, config.optimizer),
        };
        let state = State::new(described(&learner.objective, &*source), config);
        Self::at(learner, source, state)
    }

    /// Continues from the newest checkpoint in `dir` that is whole; where that is not the newest, [`Event::Warned`]
    /// says so when the run begins, and newer ones are kept under other names. The settings are the checkpoint's, but
    /// for these changes. Where settings are expected, with these changes, and the recipe that
    /// [`with_recipe`](Self::with_recipe) was given, they must be those.
    ///
    /// # Errors
    /// [`Error::OtherSettings`] for the first field that differs from what is expected, and where the checkpoint's
    /// batches were another source's; [`Error::NoCheckpoint`]; a newer one that the system does not let be read; where
    /// none is whole what is wrong with the newest; changes that cannot be.
    pub fn resume(
        objective: O,
        dir: &Path,
        source: Box<dyn Source>,
        changes: Changes,
        expected: Option<(&TrainConfig, &Value)>,
    ) -> Result<Self> {
        let (learner, mut state, passed) = checkpoint::load_newest(dir, objective, changes.verify)?;
        let saved = Some(state.saved_as());
        changes.apply(&mut state)?;
        if let Some((config, recipe)) = expected {
            same("train", &plain(&state.config), &plain(config))?;
            same("", &state.recipe, &plain(recipe))?;
        }
        state.check_source(&described(&learner.objective, &*source))?;
        Ok(Self {
            saved,
            passed,
            ..Self::at(learner, source, state)?
        })
    }

    fn at(mut learner: Learner<O>, source: Box<dyn Source>, state: State) -> Result<Self> {
        state.config.check()?;
        learner.objective.to(learner.model.device())?;
        learner
            .objective
            .check_source(&learner.model, source.bounds())?;
        Ok(Self {
            engine: Engine::new(learner, Recompute::None),
            peak: None,
            source,
            state,
            saved: None,
            passed: Vec::new(),
        })
    }

    /// The same trainer with what defines its run besides its own settings: checkpoints keep it, and
    /// [`resume`](Self::resume) holds it against what a run is to go on with.
    pub fn with_recipe(mut self, recipe: &impl Serialize) -> Self {
        self.state.recipe = plain(recipe);
        self
    }

    /// Brings another learning rate to the checkpoint in `dir` that is gone on from, as a run does when it begins; the
    /// number of steps is what a run is asked for each time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep_changes(&mut self, dir: &Path) -> Result<()> {
        match self.saved {
            Some(saved) if saved != self.state.saved_as() => self.save(dir).map(drop),
            _ => Ok(()),
        }
    }

    /// The same trainer on another device, in another precision. Without this it computes where the given model is.
    ///
    /// # Errors
    /// A device that cannot be used, a precision that it does not have, memory.
    pub fn on(mut self, compute: Compute) -> Result<Self> {
        let (mut learner, device) = (self.engine.learner, compute.device);
        learner.model.to(device, compute.precision)?;
        learner.optimizer.to(device)?;
        learner.objective.to(device)?;
        self.peak = match device {
            Device::Cpu => None,
            Device::Cuda(_) => {
                cuda::properties(device)?.peak_flops(compute.precision.activations())
            }
        };
        self.engine = Engine::new(learner, compute.recompute);
        Ok(self)
    }

    /// The model.
    pub fn model(&self) -> &O::Model {
        &self.engine.learner.model
    }

    /// The model, trained.
    pub fn into_model(self) -> O::Model {
        self.engine.learner.model
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Whether there is no step left to take.
    pub fn is_finished(&self) -> bool {
        self.state.is_finished()
    }

    /// Trains to the last step, until the stop rule holds, or until the stop flag is set. A checkpoint is written at
    /// the end of each of these, and the model evaluated, unless the flag ended the run.
    ///
    /// # Errors
    /// [`Error::NoEvaluation`]; [`Error::NotFinite`] where the loss or the gradient is not a number any more: the
    /// checkpoints written before stay. [`Error::RunExists`] where the folder holds checkpoints of a run that this one
    /// does not continue.
    pub fn run(&mut self, mut run: Run<'_, O::Model>) -> Result<Outcome> {
        if self.state.config.best.is_some() && run.evaluate.is_none() {
            return Err(Error::NoEvaluation);
        }
        let mut warnings = std::mem::take(&mut self.passed);
        if let Some(dir) = run.dir {
            if let (Some((_, path)), None) = (checkpoint::newest(dir)?, self.saved) {
                return Err(Error::RunExists(path));
            }
            warnings.iter_mut().try_for_each(checkpoint::set_aside)?;
            warnings.extend(checkpoint::sweep(dir)?);
        }
        warn(&mut run, &warnings)?;
        run.observer.event(&Event::Started {
            step: self.step(),
            steps: self.state.config.steps,
            parameters: (self.model()).count(|param| param.trained && !param.frozen)?,
        })?;
        let interrupted = match self.train(&mut run) {
            Err(Error::Stopped) => true,
            trained => trained.map(|()| false)?,
        };
        self.checkpoint(&mut run)?;
        Ok(Outcome {
            step: self.step(),
            interrupted,
            evaluation: self.state.evaluation.as_ref().map(|(_, last)| last.clone()),
            best: (run.dir.zip(self.state.best))
                .map(|(dir, best)| checkpoint::folder(dir, best.step)),
        })
    }

    /// Takes all steps that are left, after what is due at this one: an interrupted run may have left it undone.
    fn train(&mut self, run: &mut Run<'_, O::Model>) -> Result<()> {
        loop {
            let (step, config) = (self.step(), &self.state.config);
            let due = |every: u64| step > 0 && every > 0 && step.is_multiple_of(every);
            let finished = self.state.is_finished();
            let (log, evaluate) = (due(config.log_every), due(config.eval_every));
            let mut save = due(config.checkpoint_every);
            if finished || log {
                self.report(run)?;
            }
            if finished || evaluate {
                self.evaluate(run)?;
            }
            if finished {
                return Ok(());
            }
            save |= self.state.best.is_some_and(|best| best.step == step);
            // One of this very step may lack the evaluation that an interrupt cut off.
            save |= self.saved.is_some_and(|(at, ..)| at == step);
            if save {
                self.checkpoint(run)?;
            }
            go_on(run.stop)?;
            if !self.state.is_finished() {
                self.take_step(run.stop)?; // patience may be lost since the beginning
            }
        }
    }

    /// Tells the figures of the steps since the last time, if there were any.
    fn report(&mut self, run: &mut Run<'_, O::Model>) -> Result<()> {
        let interval = std::mem::take(&mut self.state.interval);
        if interval.steps == 0 {
            return Ok(());
        }
        let (state, model) = (&self.state, self.model());
        let mut metrics = interval.metrics(state.step, state.config.steps, state.seconds);
        let length = interval.lengths / interval.tokens.max(1);
        let flops = model.flops_per_token()? + model.attention_flops(length);
        let flops = 3.0 * flops; // forward, and twice that backward
        metrics.mfu = (self.peak).map(|peak| metrics.tokens_per_second * flops / peak);
        metrics.memory = self.model().device().memory().high_water;
        run.observer.event(&Event::Stepped(&metrics))
    }

    /// Evaluates the model, unless that was done after this step.
    fn evaluate(&mut self, run: &mut Run<'_, O::Model>) -> Result<()> {
        let step = self.step();
        let evaluated = self.state.evaluation.as_ref().map(|(at, _)| *at);
        let Some(evaluate) = run.evaluate.as_mut().filter(|_| evaluated != Some(step)) else {
            return Ok(());
        };
        // A recorded step keeps its memory to itself. Where there is too little beside it, it is recorded again later.
        let evaluation = with_room(
            || evaluate(&self.engine.learner.model),
            || self.engine.recorded.take().is_some(),
        )?;
        for (name, value) in &evaluation.values {
            require_finite(name, *value, step)?;
        }
        run.observer.event(&Event::Evaluated {
            step,
            evaluation: &evaluation,
        })?;
        self.state.evaluated(evaluation);
        Ok(())
    }

    /// Writes a checkpoint, if the run keeps any and there is something new to keep.
    fn checkpoint(&mut self, run: &mut Run<'_, O::Model>) -> Result<()> {
        let Some(dir) = run.dir else {
            return Ok(());
        };
        let step = self.step();
        if step == 0 || self.saved == Some(self.state.saved_as()) {
            return Ok(());
        }
        run.observer.event(&Event::Checkpointing)?;
        let (path, left) = self.save(dir)?;
        let written = Event::Checkpointed { step, path: &path };
        run.observer.event(&written)?;
        warn(run, &left)
    }

    /// Writes a checkpoint to the run in `dir`, and gives why old ones could not be removed.
    pub(crate) fn save(&mut self, dir: &Path) -> Result<(PathBuf, Vec<Error>)> {
        let path = checkpoint::folder(dir, self.step());
        let saved = match self.saved {
            Some((at, ..)) if at == self.step() && path.is_dir() => {
                checkpoint::write_state(&path, &self.state)?;
                (path, Vec::new())
            }
            _ => checkpoint::save(dir, &self.engine.learner, &self.state)?,
        };
        self.saved = Some(self.state.saved_as());
        Ok(saved)
    }

    /// Gradients of `accumulation` batches, and a step of the optimiser. What failed before leaves no trace in it.
    pub(crate) fn take_step(&mut self, stop: &AtomicBool) -> Result<()> {
        let start = Instant::now();
        let (done, config) = (self.step(), &self.state.config);
        let (source, first) = (&self.source, self.state.position.batches);
        let (mut tokens, mut lengths) = (0, 0);
        let batches = (0..config.accumulation as usize).map(|i| {
            go_on(stop)?;
            let batch = source.batch(first.wrapping_add(i as u64))?;
            tokens += batch.batch * batch.length;
            lengths += batch.batch * batch.length * batch.length;
            Ok(batch)
        });
        let lr = config.learning_rate(done);
        let (losses, norm) = self.engine.step(batches, lr)?;
        for loss in &losses {
            require_finite("the loss", loss.mean(), done + 1)?;
        }
        require_finite("the gradient's norm", norm, done + 1)?;
        let losses = losses.iter();
        self.state.add(&Interval {
            steps: 1,
            batches: losses.len(),
            tokens,
            lengths,
            loss: losses.clone().map(Totals::mean).sum(),
            correct: losses.clone().map(|totals| totals.correct).sum(),
            counted: losses.map(|totals| totals.count).sum(),
            lr,
            grad_norm: norm,
            seconds: start.elapsed().as_secs_f64(),
        });
        Ok(())
    }
}

/// What a run learns from, and how.
fn described<O: Objective>(objective: &O, source: &dyn Source) -> String {
    [source.description(), objective.description()].concat()
}

/// Tells what failed without ending the run.
fn warn<M>(run: &mut Run<'_, M>, errors: &[Error]) -> Result<()> {
    let mut errors = errors.iter();
    errors.try_for_each(|error| run.observer.event(&Event::Warned(error)))
}

/// Does the work, and once again where memory was short and `free` gave some back; whatever else failed would fail
/// again.
pub(crate) fn with_room<T>(
    mut work: impl FnMut() -> Result<T>,
    free: impl FnOnce() -> bool,
) -> Result<T> {
    match work() {
        Err(error) if error.is_out_of_memory() && free() => work(),
        result => result,
    }
}

fn require_finite(what: &str, value: f64, step: u64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NotFinite {
        what: what.to_owned(),
        value,
        step,
    })
}
