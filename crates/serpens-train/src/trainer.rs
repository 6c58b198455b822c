//! The loop.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serpens_core::{Device, cuda};
use serpens_data::{Bounds, Source};
use serpens_nn::{MambaLm, Module, Precision, Recompute};

use crate::checkpoint::{self, State};
use crate::engine::Engine;
use crate::interval::{Interval, Machine};
use crate::{AdamW, Error, Evaluation, Event, Observer, Result, TrainConfig};

/// Where and how a model is trained. No part of a run: a checkpoint continues under any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// In which types.
    pub precision: Precision,
    /// What is computed again to save memory.
    pub recompute: Recompute,
}

impl Default for Compute {
    /// In f32 on the processor.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: Precision::F32,
            recompute: Recompute::None,
        }
    }
}

/// A model in training.
pub struct Trainer {
    pub(crate) model: MambaLm,
    pub(crate) optimizer: AdamW,
    engine: Engine,
    machine: Machine,
    source: Box<dyn Source>,
    pub(crate) config: TrainConfig,
    step: u64,
    seconds: f64,
    /// (correct, counted) of the last steps, for the stop rule.
    recent: VecDeque<(usize, usize)>,
    /// Since the last event of metrics.
    pub(crate) interval: Interval,
    /// The last evaluation and its step.
    evaluation: Option<(u64, Evaluation)>,
    /// The step of the last checkpoint read or written.
    saved: Option<u64>,
}

/// Says how good a model is.
pub type Evaluate<'a> = dyn FnMut(&MambaLm) -> Result<Evaluation> + 'a;

/// What surrounds a run.
pub struct Run<'a> {
    /// Where checkpoints go; none are kept without it.
    pub dir: Option<&'a Path>,
    /// Hears what happens.
    pub observer: &'a mut dyn Observer,
    /// Once set, the run saves a checkpoint and ends.
    pub stop: &'a AtomicBool,
    /// Called every `eval_every` steps and at the end.
    pub evaluate: Option<&'a mut Evaluate<'a>>,
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
    /// Seconds spent in training steps, over all sittings.
    pub seconds: f64,
}

impl Trainer {
    /// A trainer at step 0.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that no training can have, or a source with more tokens than the model.
    pub fn new(model: MambaLm, source: Box<dyn Source>, config: TrainConfig) -> Result<Self> {
        config.check()?;
        check_vocabulary(&model, source.as_ref())?;
        Ok(Self {
            optimizer: AdamW::new(config.optimizer),
            engine: Engine::new(Recompute::None),
            machine: Machine::default(),
            model,
            source,
            config,
            step: 0,
            seconds: 0.0,
            recent: VecDeque::new(),
            interval: Interval::default(),
            evaluation: None,
            saved: None,
        })
    }

    /// Continues from the newest checkpoint in `dir`, which must belong to this source. The settings are the checkpoint's, but
    /// for the number of steps, which may be raised with `steps`.
    pub fn resume(dir: &Path, mut source: Box<dyn Source>, steps: Option<u64>) -> Result<Self> {
        let restored = checkpoint::load_newest(dir)?;
        check_vocabulary(&restored.model, source.as_ref())?;
        let State {
            step,
            position,
            seconds,
            recent,
            interval,
            evaluation,
            mut config,
        } = restored.state;
        source.seek(&position)?;
        config.steps = steps.unwrap_or(config.steps);
        config.check()?;
        Ok(Self {
            optimizer: restored.optimizer,
            engine: Engine::new(Recompute::None),
            machine: Machine::default(),
            model: restored.model,
            source,
            config,
            step,
            seconds,
            recent: recent.into(),
            interval,
            evaluation,
            saved: Some(step),
        })
    }

    /// The same trainer on another device, in another precision. Without this it computes where the given model is.
    ///
    /// # Errors
    /// A device that cannot be used, a precision that it does not have, memory.
    pub fn on(mut self, compute: Compute) -> Result<Self> {
        let Compute {
            device,
            precision,
            recompute,
        } = compute;
        self.model.to(device, precision)?;
        self.optimizer.to(device)?;
        self.engine = Engine::new(recompute);
        let flops = 3.0 * self.model.flops_per_token();
        self.machine = Machine {
            flops_per_token: flops,
            peak: match device {
                Device::Cpu => None,
                Device::Cuda(_) => cuda::properties(device)?.peak_flops(precision.activations()),
            },
        };
        Ok(self)
    }

    /// The model.
    pub fn model(&self) -> &MambaLm {
        &self.model
    }

    /// The model, trained.
    pub fn into_model(self) -> MambaLm {
        self.model
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Trains to the last step, until the stop rule holds, or until the stop flag is set. A checkpoint is written at the end of
    /// each of these, and the model evaluated, unless the flag ended the run.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where the loss or the gradient is not a number any more: the checkpoints written before stay.
    /// [`Error::RunExists`] where the folder holds checkpoints of a run that this one does not continue.
    pub fn run(&mut self, mut run: Run<'_>) -> Result<Outcome> {
        if let Some(dir) = run.dir {
            self.check_folder(dir)?;
        }
        run.observer.event(&Event::Started {
            step: self.step,
            steps: self.config.steps,
            parameters: self.model.parameter_count(),
        })?;
        while !self.is_finished() && !run.stop.load(Ordering::Relaxed) {
            self.take_step()?;
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every);
            let (log, evaluate) = (due(self.config.log_every), due(self.config.eval_every));
            let save = due(self.config.checkpoint_every);
            if log {
                self.report(&mut run)?;
            }
            if self.is_finished() {
                break;
            }
            if evaluate {
                self.evaluate(&mut run)?;
            }
            if save {
                self.checkpoint(&mut run)?;
            }
        }
        self.report(&mut run)?;
        let interrupted = !self.is_finished();
        if !interrupted {
            self.evaluate(&mut run)?;
        }
        self.checkpoint(&mut run)?;
        Ok(Outcome {
            step: self.step,
            interrupted,
            evaluation: self.evaluation.as_ref().map(|(_, last)| last.clone()),
            seconds: self.seconds,
        })
    }

    /// Whether there is nothing more to do.
    fn is_finished(&self) -> bool {
        self.step >= self.config.steps || self.stop_rule_holds()
    }

    /// Refuses a folder with checkpoints that are not this run's.
    fn check_folder(&self, dir: &Path) -> Result<()> {
        match checkpoint::newest(dir)? {
            Some((_, path)) if self.saved.is_none() => Err(Error::RunExists { path }),
            _ => Ok(()),
        }
    }

    /// Tells the figures of the steps since the last time, if there were any.
    fn report(&mut self, run: &mut Run<'_>) -> Result<()> {
        let interval = std::mem::take(&mut self.interval);
        if interval.steps == 0 {
            return Ok(());
        }
        let mut metrics = interval.metrics(self.step, self.config.steps, self.seconds);
        metrics.mfu = self.machine.utilisation(metrics.tokens_per_second);
        metrics.memory = self.model.device().memory().high_water;
        run.observer.event(&Event::Stepped(&metrics))
    }

    /// Evaluates the model, unless that was done after this step.
    fn evaluate(&mut self, run: &mut Run<'_>) -> Result<()> {
        let step = self.step;
        if self.evaluation.as_ref().is_some_and(|(at, _)| *at == step) {
            return Ok(());
        }
        let Some(evaluate) = run.evaluate.as_mut() else {
            return Ok(());
        };
        let evaluation = match evaluate(&self.model) {
            // A recorded step keeps its memory to itself. Where there is too little beside it, it is recorded again later.
            Err(_) if self.engine.forget_recorded() => evaluate(&self.model)?,
            result => result?,
        };
        for (name, value) in &evaluation.values {
            require_finite(name, *value, step)?;
        }
        run.observer.event(&Event::Evaluated {
            step,
            evaluation: &evaluation,
        })?;
        self.evaluation = Some((step, evaluation));
        Ok(())
    }

    /// Writes a checkpoint, if the run keeps any and there is something new to keep.
    fn checkpoint(&mut self, run: &mut Run<'_>) -> Result<()> {
        let Some(dir) = run.dir else {
            return Ok(());
        };
        let step = self.step;
        if step == 0 || self.saved == Some(step) {
            return Ok(());
        }
        let path = self.save(dir)?;
        run.observer
            .event(&Event::Checkpointed { step, path: &path })
    }

    /// Writes a checkpoint to the run in `dir`.
    pub(crate) fn save(&mut self, dir: &Path) -> Result<PathBuf> {
        let state = State {
            step: self.step,
            position: self.source.position(),
            seconds: self.seconds,
            recent: self.recent.iter().copied().collect(),
            interval: self.interval.clone(),
            evaluation: self.evaluation.clone(),
            config: self.config.clone(),
        };
        let keep = self.config.keep;
        let path = checkpoint::save(dir, &self.model, &self.optimizer, &state, keep)?;
        self.saved = Some(self.step);
        Ok(path)
    }

    /// Gradients of `accumulation` batches, and a step of the optimiser. What failed before leaves no trace in it.
    pub(crate) fn take_step(&mut self) -> Result<()> {
        let start = Instant::now();
        let count = self.config.accumulation;
        let batches = (0..count)
            .map(|_| self.source.next_batch())
            .collect::<Result<Vec<_>, _>>()?;
        let lr = self.config.learning_rate(self.step);
        let measured = self
            .engine
            .step(&mut self.model, &mut self.optimizer, &batches, lr)?;
        for mean in measured.means() {
            require_finite("the loss", mean, self.step + 1)?;
        }
        require_finite("the gradient's norm", measured.norm, self.step + 1)?;
        self.step += 1;
        let mut sums = Interval {
            steps: 1,
            batches: batches.len(),
            tokens: batches.iter().map(|batch| batch.batch * batch.length).sum(),
            loss: measured.means().sum(),
            correct: measured.losses.iter().map(|totals| totals.correct).sum(),
            counted: measured.losses.iter().map(|totals| totals.count).sum(),
            lr,
            grad_norm: measured.norm,
            seconds: 0.0,
        };
        if let Some(rule) = self.config.stop {
            self.recent.push_back((sums.correct, sums.counted));
            while self.recent.len() > rule.steps {
                self.recent.pop_front();
            }
        }
        sums.seconds = start.elapsed().as_secs_f64();
        self.seconds += sums.seconds;
        self.interval.add(&sums);
        Ok(())
    }

    fn stop_rule_holds(&self) -> bool {
        let Some(rule) = self.config.stop else {
            return false;
        };
        let (correct, counted) = self
            .recent
            .iter()
            .fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        self.recent.len() == rule.steps
            && counted > 0
            && correct as f64 >= rule.accuracy * counted as f64
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

fn check_vocabulary(model: &MambaLm, source: &dyn Source) -> Result<()> {
    let Bounds { inputs, targets } = source.bounds();
    if inputs.max(targets) <= model.config().vocab_size {
        return Ok(());
    }
    Err(serpens_nn::Error::Config {
        field: "vocab_size",
        value: model.config().vocab_size.to_string(),
        reason: "the data has more tokens than the model",
    }
    .into())
}
