//! What a program of its own brings: a source, a model and an objective that this crate knows nothing of. Sequences are
//! counted: classified by the token that is most frequent, and by regression on the share that one token has.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{Device, Tensor, Var};
use serpens_data::{Batch, Bounds, IGNORE, Numbers, Source};
use serpens_formats::safetensors::{read_tensors, write_tensors};
use serpens_nn::checkpoint::Verify;
use serpens_nn::layers::{Linear, Sequence};
use serpens_nn::{MambaLm, MambaLmConfig, Module, checkpoint, module};
use serpens_ops::cross_entropy::cross_entropy;
use serpens_ops::optimizer::Rule;
use serpens_ops::optimizer::cpu::{Block, Step};
use serpens_train::{
    Changes, Error, Event, Loss, Objective, Observer, OptimizerConfig, Result, Run, Silent,
    TrainConfig, TrainedModel, Trainer,
};

const TOKENS: usize = 3;
const LENGTH: usize = 12;
const ROWS: usize = 8;

/// Sequences of tokens, each with one answer, at its end.
struct Counted {
    /// What is asked of the counts of all tokens.
    answer: fn([u32; TOKENS]) -> u32,
    /// The answers are below it.
    answers: usize,
}

impl Source for Counted {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        if index == u64::MAX {
            return Err(serpens_data::Error::other(std::fmt::Error));
        }
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for row in 0..ROWS as u64 {
            let mut bits = (index * ROWS as u64 + row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut counts = [0; TOKENS];
            for _ in 0..LENGTH {
                bits ^= bits << 13;
                bits ^= bits >> 7;
                bits ^= bits << 17;
                let token = (bits >> 33) as usize % TOKENS;
                counts[token] += 1;
                inputs.push(token as u32);
            }
            targets.extend([IGNORE; LENGTH - 1]);
            targets.push((self.answer)(counts));
        }
        Ok(Batch {
            starts: None,
            inputs,
            targets,
            batch: ROWS,
            length: LENGTH,
        }
        .into())
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: TOKENS,
            targets: self.answers,
        }
    }

    fn description(&self) -> String {
        format!("counted, {} answers", self.answers)
    }
}

/// The most frequent token, of equal ones the first.
fn classes() -> Box<Counted> {
    let most = |counts: [u32; TOKENS]| {
        let by_count = |&token: &usize| (counts[token], TOKENS - token);
        (0..TOKENS).max_by_key(by_count).unwrap() as u32
    };
    Box::new(Counted {
        answer: most,
        answers: TOKENS,
    })
}

/// How often the first token comes.
fn amounts() -> Box<Counted> {
    Box::new(Counted {
        answer: |counts| counts[0],
        answers: LENGTH + 1,
    })
}

/// A language model's body with a head of its own.
struct Reader {
    body: MambaLm,
    head: Linear,
    answers: usize,
}

module!(Reader { body => "body", head => "head" });

impl Reader {
    fn of(body: MambaLm, answers: usize) -> Self {
        let head = Linear::plan(body.config().d_model, answers);
        let head = head.init(Device::Cpu, 1).unwrap();
        Self {
            body,
            head,
            answers,
        }
    }

    fn new(answers: usize) -> Self {
        let body = MambaLmConfig::new(16, 1, TOKENS);
        Self::of(body.init(Device::Cpu, 0).unwrap(), answers)
    }

    /// (batch, length) of u32 → (batch, length, answers)
    fn forward(&self, ids: &Var, sequence: &Sequence<'_>) -> serpens_nn::Result<Var> {
        self.head.forward(&self.body.hidden(ids, sequence, None)?)
    }
}

impl TrainedModel for Reader {
    fn device(&self) -> Device {
        self.body.device()
    }

    fn save(&self, dir: &Path) -> serpens_nn::Result<()> {
        checkpoint::save(&self.body, dir)?;
        let mut head = Vec::new();
        self.head.visit("", &mut |name, param| {
            head.push((name.to_owned(), param.value()?.clone()));
            Ok(())
        })?;
        Ok(write_tensors(&dir.join("head.safetensors"), &head)?)
    }

    fn load(dir: &Path, verify: Verify) -> serpens_nn::Result<Self> {
        let mut values = read_tensors(&dir.join("head.safetensors"), Device::Cpu, verify)?;
        let answers = values["weight"].shape()[0];
        let mut reader = Self::of(checkpoint::load(dir, Device::Cpu, verify)?, answers);
        reader.head.visit_mut("", &mut |name, param| {
            param.set(values.remove(name).expect("`save` wrote it"))
        })?;
        Ok(reader)
    }
}

/// Refuses answers that the model has no output for.
fn check(model: &Reader, needed: usize, bounds: Bounds) -> Result<()> {
    let known = bounds.inputs <= TOKENS && model.answers >= needed;
    known.then_some(()).ok_or(Error::Config {
        field: "answers",
        value: model.answers.to_string(),
        reason: "the source has more",
    })
}

/// Cross-entropy of the answers.
struct Classify;

impl Objective for Classify {
    type Model = Reader;

    fn check_source(&self, model: &Reader, bounds: Bounds) -> Result<()> {
        check(model, bounds.targets, bounds)
    }

    fn check_batch(&self, _model: &Reader, _batch: &Batch<Numbers>) -> serpens_core::Result<()> {
        Ok(()) // its source makes no others
    }

    fn loss(
        &self,
        model: &Reader,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss> {
        let loss = cross_entropy(model.forward(inputs, sequence)?, targets)?;
        Ok(Loss {
            value: loss.loss,
            totals: Some(loss.totals),
        })
    }
}

/// Mean squared error of the share that the answer is of the length.
struct Estimate;

impl Objective for Estimate {
    type Model = Reader;

    fn check_source(&self, model: &Reader, bounds: Bounds) -> Result<()> {
        check(model, 1, bounds)
    }

    fn check_batch(&self, _model: &Reader, _batch: &Batch<Numbers>) -> serpens_core::Result<()> {
        Ok(())
    }

    fn loss(
        &self,
        model: &Reader,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss> {
        let estimates = model.forward(inputs, sequence)?; // (batch, length, 1)
        Ok(Loss {
            value: mean_squared_error(&estimates, targets)?,
            totals: None,
        })
    }
}

/// An operation of this program's own, on the processor: the mean of (estimate − target / length)² over the targets
/// that count.
fn mean_squared_error(estimates: &Var, targets: &Tensor) -> serpens_core::Result<Var> {
    let values = estimates.tensor()?.as_slice::<f32>()?.iter();
    let pairs = values.zip(targets.as_slice::<u32>()?);
    let apart: Vec<Option<f32>> = pairs
        .map(|(value, &target)| (target != IGNORE).then(|| value - target as f32 / LENGTH as f32))
        .collect();
    let count = apart.iter().flatten().count() as f32;
    let sum: f32 = apart.iter().flatten().map(|d| d * d).sum();
    let loss = Tensor::from_slice([1], &[sum / count], Device::Cpu)?;
    let slopes: Vec<f32> = apart
        .iter()
        .map(|d| d.map_or(0.0, |d| 2.0 * d / count))
        .collect();
    let slopes = Tensor::from_slice(estimates.shape(), &slopes, Device::Cpu)?;
    let inputs = [Some(estimates)];
    let operation =
        tracked(&inputs).then(|| Box::new(MeanSquaredError { slopes }) as Box<dyn Backward>);
    let [loss] = record("mean_squared_error", &inputs, [loss], operation)?;
    Ok(loss)
}

struct MeanSquaredError {
    /// ∂loss/∂estimates
    slopes: Tensor,
}

impl Backward for MeanSquaredError {
    fn backward(
        mut self: Box<Self>,
        context: &mut BackwardContext<'_, '_>,
    ) -> serpens_core::Result<()> {
        let Some(loss) = context.take_output(0) else {
            return Ok(());
        };
        let scale = loss.as_slice::<f32>()?[0];
        let slopes = self.slopes.make_mut::<f32>()?;
        slopes.iter_mut().for_each(|slope| *slope *= scale);
        context.add(0, self.slopes)
    }
}

/// The loss and the accuracy that were told.
#[derive(Default)]
struct Told(Vec<(f64, f64)>);

impl Observer for Told {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Stepped(metrics) = event {
            self.0.push((metrics.loss, metrics.accuracy));
        }
        Ok(())
    }
}

fn settings(steps: u64) -> TrainConfig {
    let mut config = TrainConfig {
        steps,
        log_every: steps.div_ceil(10),
        ..TrainConfig::default()
    };
    config.optimizer.lr = 1e-2;
    config
}

/// The loss and the accuracy of every step that was told of.
fn told<O: Objective>(trainer: &mut Trainer<O>, dir: Option<&Path>) -> Vec<(f64, f64)> {
    let mut told = Told::default();
    let outcome = trainer.run(Run {
        dir,
        observer: &mut told,
        stop: &AtomicBool::new(false),
        evaluate: None,
    });
    assert!(!outcome.unwrap().interrupted);
    told.0
}

#[test]
fn a_classifier_of_a_programs_own_learns() {
    let mut trainer =
        Trainer::new(Classify, Reader::new(TOKENS), classes(), settings(400)).unwrap();
    let told = told(&mut trainer, None);
    let (first, last) = (told[0], told[told.len() - 1]);
    assert!(first.0 > 0.8, "near ln 3 at first: {told:?}");
    assert!(last.0 < 0.5 && last.1 > 0.8, "{told:?}");
}

#[test]
fn a_regression_of_a_programs_own_learns_and_tells_its_value() {
    let mut trainer = Trainer::new(Estimate, Reader::new(1), amounts(), settings(150)).unwrap();
    let told = told(&mut trainer, None);
    let (first, last) = (told[0], told[told.len() - 1]);
    assert!(last.0 < first.0 / 4.0 && last.0 < 5e-3, "{told:?}");
    assert_eq!(last.1, 0.0, "nothing is right or wrong");
}

#[test]
fn a_model_of_a_programs_own_resumes_to_the_bit() {
    let new = |steps| {
        Trainer::new(
            Classify,
            Reader::new(TOKENS),
            classes(),
            TrainConfig {
                log_every: 1,
                ..settings(steps)
            },
        )
        .unwrap()
    };
    let whole = told(&mut new(10), None);
    let dir = tempfile::tempdir().unwrap();
    let mut parts = told(&mut new(4), Some(dir.path()));
    let mut resumed =
        Trainer::resume(Classify, dir.path(), classes(), Changes::steps(10), None).unwrap();
    parts.extend(told(&mut resumed, Some(dir.path())));
    assert_eq!(parts, whole);
}

/// Signs of a sum of gradients.
#[derive(Debug)]
struct SignOfSum;

impl Rule for SignOfSum {
    fn name(&self) -> &'static str {
        "sign-of-sum"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["sum"]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let lr = step.lr;
        block.each(move |g, [sum]| {
            *sum += g;
            lr * sum.signum()
        });
    }
}

/// [`Estimate`], learnt by a rule of this program's own.
struct BySigns;

impl Objective for BySigns {
    type Model = Reader;

    fn check_source(&self, model: &Reader, bounds: Bounds) -> Result<()> {
        Estimate.check_source(model, bounds)
    }

    fn check_batch(&self, model: &Reader, batch: &Batch<Numbers>) -> serpens_core::Result<()> {
        Estimate.check_batch(model, batch)
    }

    fn loss(
        &self,
        model: &Reader,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss> {
        Estimate.loss(model, inputs, targets, sequence)
    }

    fn rule(&self, _: &OptimizerConfig) -> Box<dyn Rule> {
        Box::new(SignOfSum)
    }
}

#[test]
fn a_rule_of_a_programs_own_resumes_to_the_bit_and_under_no_other() {
    let new = |steps| {
        let config = TrainConfig {
            log_every: 1,
            ..settings(steps)
        };
        Trainer::new(BySigns, Reader::new(1), amounts(), config).unwrap()
    };
    let whole = told(&mut new(10), None);
    let dir = tempfile::tempdir().unwrap();
    let mut parts = told(&mut new(4), Some(dir.path()));
    let other = Trainer::resume(Estimate, dir.path(), amounts(), Changes::steps(10), None).err();
    let other = other.unwrap().to_string();
    assert!(other.contains("adamw keeps no sum."), "{other}");
    let mut resumed =
        Trainer::resume(BySigns, dir.path(), amounts(), Changes::steps(10), None).unwrap();
    parts.extend(told(&mut resumed, Some(dir.path())));
    assert_eq!(parts, whole);
}

#[test]
fn what_a_model_cannot_answer_is_refused_before_the_first_step() {
    let error = Trainer::new(Classify, Reader::new(2), classes(), settings(1)).err();
    let error = error.expect("two outputs for three classes");
    assert!(
        matches!(
            error,
            Error::Config {
                field: "answers",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_error_of_a_source_of_a_programs_own_keeps_its_kind() {
    /// Fails at once.
    struct Failing(Box<Counted>);
    impl Source for Failing {
        fn batch(&self, _index: u64) -> serpens_data::Result<Batch<Numbers>> {
            self.0.batch(u64::MAX)
        }
        fn bounds(&self) -> Bounds {
            self.0.bounds()
        }
        fn description(&self) -> String {
            "failing".into()
        }
    }
    let source = Box::new(Failing(classes()));
    let mut trainer = Trainer::new(Classify, Reader::new(TOKENS), source, settings(1)).unwrap();
    let error = trainer.run(Run {
        dir: None,
        observer: &mut Silent,
        stop: &AtomicBool::new(false),
        evaluate: None,
    });
    let Err(Error::Data(serpens_data::Error::Other(source))) = error else {
        panic!("{error:?}");
    };
    assert!(source.is::<std::fmt::Error>());
}
