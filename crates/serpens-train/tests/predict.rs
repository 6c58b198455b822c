//! Models that answer learn classes, labels, values and tags from sources of a program's own, and what is told of their
//! answers is as it is defined.

mod losses;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use losses::Losses;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serpens_core::{Device, Tensor, Var};
use serpens_data::{Batch, Bounds, IGNORE, Numbers, Source};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::BidirectionalConfig;
use serpens_nn::{
    Answer, HeadConfig, MambaLmConfig, Module, Pooling, Precision, Predictor, PredictorConfig,
};
use serpens_train::metrics::{ClassMetrics, LabelMetrics, Metrics, ValueMetrics};
use serpens_train::{
    Changes, Compute, Deviation, Error, Objective, Predict, Result, Run, TrainConfig, Trainer,
    evaluate,
};

const TOKENS: usize = 4;
const LENGTH: usize = 16;
const ROWS: usize = 8;

/// What is asked of random sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    /// Which of the first three tokens comes most often?
    Most,
    /// Which tokens are there?
    Present,
    /// Which token came one before, at each position?
    Before,
    /// Are there more tokens of the outer pair than of the inner, which is the same on both strands?
    Strands,
    /// How does a wave go on, at each position?
    Wave,
}

impl Task {
    fn head(self) -> HeadConfig {
        let (answer, outputs, pooling) = match self {
            Self::Most => (Answer::Class, 3, Some(Pooling::Mean)),
            Self::Present => (Answer::Labels, TOKENS, Some(Pooling::Attention)),
            Self::Before => (Answer::Class, TOKENS, None),
            Self::Strands => (Answer::Class, 2, Some(Pooling::Attention)),
            Self::Wave => (Answer::Values, 2, None),
        };
        HeadConfig {
            answer,
            outputs,
            pooling,
            complement: match self {
                Self::Strands => vec![3, 2, 1, 0],
                _ => Vec::new(),
            },
        }
    }

    fn model(self) -> Predictor {
        let model = MambaLmConfig::new(16, 1, TOKENS);
        let config = PredictorConfig {
            model: match self {
                Self::Most => model.with_mixer(BidirectionalConfig {
                    columns: Some(4),
                    ..BidirectionalConfig::default()
                }),
                _ => model,
            },
            channels: if self == Self::Wave { 2 } else { 0 },
            head: self.head(),
        };
        config.init(Device::cpu(), 1).unwrap()
    }

    fn tokens(self, ids: &[u32], targets: &mut [Vec<u32>; 2]) {
        let [classes, labels] = targets;
        let count = |token: u32| ids.iter().filter(|&&id| id == token).count();
        match self {
            Self::Most => classes.push(
                (0..3)
                    .max_by_key(|&token| (count(token), 3 - token))
                    .unwrap(),
            ),
            Self::Present => {
                labels.extend((0..TOKENS as u32).map(|token| u32::from(count(token) > 0)))
            }
            Self::Strands => {
                let outer = count(0) + count(3);
                classes.push(u32::from(2 * outer > ids.len()));
            }
            _ => {
                classes.push(IGNORE);
                classes.extend(&ids[..LENGTH - 1]);
            }
        }
    }
}

impl Source for Task {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        let mut rng = SmallRng::seed_from_u64(index);
        let (inputs, targets) = match self {
            Self::Wave => {
                let (mut inputs, mut targets) = (Vec::new(), Vec::new());
                for _ in 0..ROWS {
                    let (phase, speed) = (rng.random::<f32>() * 6.0, 0.3 + rng.random::<f32>());
                    let at = |t: usize| {
                        let angle = phase + speed * t as f32;
                        [angle.sin(), angle.cos()]
                    };
                    inputs.extend((0..LENGTH).flat_map(at));
                    targets.extend((1..=LENGTH).flat_map(at));
                }
                (Numbers::Values(inputs), Numbers::Values(targets))
            }
            _ => {
                let (mut inputs, mut targets) = (Vec::new(), [Vec::new(), Vec::new()]);
                for _ in 0..ROWS {
                    let few = rng.random_range(1..=TOKENS as u32);
                    let ids: Vec<u32> = (0..LENGTH).map(|_| rng.random_range(0..few)).collect();
                    self.tokens(&ids, &mut targets);
                    inputs.extend(ids);
                }
                let [classes, labels] = targets;
                let labels = labels.into_iter().map(|label| label as f32).collect();
                let targets = match classes.is_empty() {
                    true => Numbers::Values(labels),
                    false => Numbers::Ids(classes),
                };
                (Numbers::Ids(inputs), targets)
            }
        };
        Ok(Batch {
            inputs,
            targets,
            starts: None,
            batch: ROWS,
            length: LENGTH,
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: if *self == Self::Wave { 0 } else { TOKENS },
            targets: self.head().outputs,
        }
    }

    fn description(&self) -> String {
        format!("{self:?}")
    }
}

fn trainer_at(lr: f32, task: Task, objective: Predict, steps: u64) -> Trainer<Predict> {
    let mut config = TrainConfig {
        steps,
        log_every: 1,
        ..TrainConfig::default()
    };
    config.optimizer.lr = lr;
    Trainer::new(objective, task.model(), Box::new(task), config).unwrap()
}

fn trainer(task: Task, objective: Predict, steps: u64) -> Trainer<Predict> {
    trainer_at(1e-2, task, objective, steps)
}

fn run(trainer: &mut Trainer<Predict>, dir: Option<&Path>) -> Vec<f64> {
    let mut losses = Losses::default();
    trainer
        .run(Run {
            dir,
            observer: &mut losses,
            stop: &AtomicBool::new(false),
            evaluate: None,
        })
        .unwrap();
    losses.0
}

/// The figures of a trained model on batches that it has not seen.
fn figures(task: Task, objective: Predict, steps: u64) -> Vec<(String, f64)> {
    let mut trainer = trainer(task, objective, steps);
    run(&mut trainer, None);
    let batches = (1 << 40..(1 << 40) + 20).map(|index| task.batch(index));
    let metrics = evaluate::predictions(trainer.model(), batches, &mut |_| Ok(()));
    metrics.unwrap().figures()
}

fn figure(figures: &[(String, f64)], name: &str) -> f64 {
    let found = figures.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("{name} in {figures:?}")).1
}

#[test]
fn classes_labels_tags_and_values_are_learnt() {
    let most = figures(Task::Most, Predict::default(), 150);
    assert!(
        figure(&most, "accuracy") > 0.85 && figure(&most, "auroc") > 0.95,
        "{most:?}"
    );
    // The first token is nearly always there: of those without it there are too few to rank.
    let present = figures(Task::Present, Predict::default(), 120);
    assert!(
        figure(&present, "f1") > 0.95 && figure(&present, "accuracy") > 0.95,
        "{present:?}"
    );
    let strands = figures(Task::Strands, Predict::default(), 200);
    assert!(figure(&strands, "accuracy") > 0.9, "{strands:?}");
    let before = figures(Task::Before, Predict::default(), 60);
    assert!(
        figure(&before, "accuracy") > 0.99 && figure(&before, "f1") > 0.99,
        "{before:?}"
    );
    for deviation in [Deviation::Squared, Deviation::Absolute] {
        // That it stays as it is would be off by 0.5 and more.
        let wave = figures(Task::Wave, Predict::default().by(deviation), 200);
        assert!(
            figure(&wave, "mae") < 0.15 && figure(&wave, "rmse") < 0.25,
            "{wave:?}"
        );
    }
}

#[test]
fn a_predictor_resumes_to_the_bit() {
    let objective = || {
        let weighted = Predict::default().weighted(&[1.0, 0.5, 2.0, 1.0]).unwrap();
        weighted.smoothed(0.1).unwrap()
    };
    for task in [Task::Before, Task::Present] {
        let whole = run(&mut trainer(task, objective(), 8), None);
        let dir = tempfile::tempdir().unwrap();
        let mut parts = run(&mut trainer(task, objective(), 3), Some(dir.path()));
        let (source, changes) = (Box::new(task), Changes::steps(8));
        let other = Predict::default();
        let other = Trainer::resume(other, dir.path(), source.clone(), changes, None).err();
        assert!(
            matches!(other, Some(Error::OtherSettings { .. })),
            "{other:?}"
        );
        let mut resumed = Trainer::resume(objective(), dir.path(), source, changes, None).unwrap();
        parts.extend(run(&mut resumed, Some(dir.path())));
        assert_eq!(parts, whole, "{task:?}");
    }
}

#[test]
fn answers_are_learnt_on_a_gpu_as_on_the_processor() {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "answers on a GPU: skipped: {reason}");
            return;
        }
    };
    let plain = Predict::default;
    let objectives = [
        (Task::Most, plain()),
        (
            Task::Before,
            plain()
                .weighted(&[1.0, 0.5, 2.0, 1.0])
                .unwrap()
                .smoothed(0.1)
                .unwrap(),
        ),
        (
            Task::Present,
            plain()
                .weighted(&[1.0, 0.5, 2.0, 1.0])
                .unwrap()
                .smoothed(0.1)
                .unwrap(),
        ),
        (Task::Strands, plain()),
        (Task::Wave, plain()),
        (Task::Wave, plain().by(Deviation::Absolute)),
    ];
    for (task, objective) in objectives {
        // Of 12 steps the last are replayed from a recording.
        let new = || trainer_at(1e-3, task, objective.clone(), 12);
        let expected = run(&mut new(), None);
        for (precision, allowed) in [(Precision::F32, 2e-5), (Precision::Bf16, 2e-2)] {
            let compute = Compute {
                device,
                precision,
                ..Compute::default()
            };
            let mut trainer = new().on(compute).unwrap();
            let losses = run(&mut trainer, None);
            assert_eq!(losses.len(), expected.len());
            for (step, (got, expected)) in losses.iter().zip(&expected).enumerate() {
                let off = (got - expected).abs() / expected;
                assert!(
                    off < allowed,
                    "{task:?} in {precision}, step {step}: {got}, {expected}"
                );
            }
            let batches = || (0..2).map(|index| task.batch(index));
            let told = evaluate::predictions(trainer.model(), batches(), &mut |_| Ok(())).unwrap();
            let mut there = trainer.into_model();
            there.to(Device::cpu(), Precision::F32).unwrap();
            let here = evaluate::predictions(&there, batches(), &mut |_| Ok(())).unwrap();
            let [told, here] = [told, here].map(|metrics| metrics.figures());
            assert_eq!(told.len(), here.len());
            for ((name, got), (other, expected)) in told.iter().zip(&here) {
                assert_eq!(name, other);
                let off = (got - expected).abs();
                assert!(
                    off < allowed,
                    "{task:?} in {precision}: {name} {got}, {expected}"
                );
            }
        }
    }
}

/// The loss of one batch, and what the model gave, in f64.
fn loss(task: Task, objective: &Predict) -> (f64, Vec<f64>, Vec<f64>) {
    let (model, batch) = (task.model(), task.batch(0).unwrap());
    let inputs = match &batch.inputs {
        Numbers::Ids(ids) => Tensor::from_slice([ROWS, LENGTH], ids, Device::cpu()),
        Numbers::Values(values) => Tensor::from_slice([ROWS, LENGTH, 2], values, Device::cpu()),
    };
    let (inputs, count) = (Var::from(inputs.unwrap()), batch.targets.len());
    let (targets, numbers) = match &batch.targets {
        Numbers::Ids(ids) => (
            Tensor::from_slice([count], ids, Device::cpu()),
            ids.iter().map(|&id| f64::from(id)).collect(),
        ),
        Numbers::Values(values) => (
            Tensor::from_slice([count], values, Device::cpu()),
            values.iter().map(|&value| f64::from(value)).collect(),
        ),
    };
    let sequence = Sequence::default();
    let loss = objective
        .loss(&model, &inputs, &targets.unwrap(), &sequence)
        .unwrap();
    let value = loss.value.into_tensor().unwrap().to_vec::<f32>().unwrap()[0];
    let outputs = model
        .forward(&inputs, &sequence, None)
        .unwrap()
        .into_tensor()
        .unwrap();
    let outputs = outputs.to_vec::<f32>().unwrap().into_iter().map(f64::from);
    (f64::from(value), outputs.collect(), numbers)
}

#[test]
fn losses_are_as_they_are_defined() {
    let weights = [1.0, 0.5, 2.0, 0.25];
    let objective = Predict::default()
        .weighted(&weights)
        .unwrap()
        .smoothed(0.2)
        .unwrap();
    let weights = weights.map(f64::from);
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() < 1e-6 * expected.abs(),
            "{found}, {expected}"
        );
    };
    // −ln of the smoothed target's weighted share.
    let (found, outputs, targets) = loss(Task::Before, &objective);
    let (mut sum, mut of) = (0.0, 0.0);
    for (row, &target) in outputs.chunks(TOKENS).zip(&targets) {
        if target == f64::from(IGNORE) {
            continue;
        }
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        for (class, (x, w)) in row.iter().zip(weights).enumerate() {
            let wanted = 0.2 / TOKENS as f64 + if class as f64 == target { 0.8 } else { 0.0 };
            sum -= wanted * w * (x.exp() / total).ln();
        }
        of += weights[target as usize];
    }
    close(found, sum / of);
    let (found, outputs, targets) = loss(Task::Present, &objective);
    let losses = outputs.iter().zip(&targets).enumerate().map(|(i, (x, t))| {
        let (p, t) = (1.0 / (1.0 + (-x).exp()), 0.8 * t + 0.1);
        -weights[i % TOKENS] * (t * p.ln() + (1.0 - t) * (1.0 - p).ln())
    });
    close(found, losses.sum::<f64>() / outputs.len() as f64);
    let objective = Predict::default().weighted(&[3.0, 0.5]).unwrap();
    let off = |deviation: Deviation, of: fn(f64) -> f64| {
        let (found, outputs, targets) = loss(Task::Wave, &objective.clone().by(deviation));
        let pairs = outputs.iter().zip(&targets).enumerate();
        let losses = pairs.map(|(i, (x, t))| [3.0, 0.5][i % 2] * of(x - t));
        close(found, losses.sum::<f64>() / outputs.len() as f64);
    };
    off(Deviation::Squared, |d| d * d);
    off(Deviation::Absolute, f64::abs);
}

#[test]
fn what_is_told_of_classes_is_as_defined() {
    let mut rng = SmallRng::seed_from_u64(5);
    let (classes, count) = (3, 200);
    // Of few values, so that many are equal.
    let logits: Vec<f32> = (0..classes * count)
        .map(|_| rng.random_range(-2..=2_i8) as f32 / 2.0)
        .collect();
    let targets: Vec<u32> = (0..count)
        .map(|_| rng.random_range(0..classes as u32))
        .collect();
    let mut metrics = ClassMetrics::new(classes);
    metrics.add(&logits[..30], &targets[..10]).unwrap();
    metrics.add(&logits[30..], &targets[10..]).unwrap();
    metrics.add(&[1.0, 2.0, 3.0], &[IGNORE]).unwrap();
    let rows: Vec<&[f32]> = logits.chunks(classes).collect();
    let answer = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        row.iter().position(|x| *x == most).unwrap()
    };
    let p = |row: &[f32], class: usize| {
        let of = |x: f32| f64::from(x).exp();
        of(row[class]) / row.iter().map(|x| of(*x)).sum::<f64>()
    };
    let close = |found: Option<f64>, expected: f64| {
        assert!(
            (found.unwrap() - expected).abs() < 1e-9,
            "{found:?}, {expected}"
        );
    };
    let pairs = || {
        rows.iter()
            .zip(&targets)
            .map(|(row, &target)| (*row, target as usize))
    };
    let right = pairs()
        .filter(|(row, target)| answer(row) == *target)
        .count();
    close(metrics.accuracy(), right as f64 / count as f64);
    let nll: f64 = pairs().map(|(row, target)| -p(row, target).ln()).sum();
    close(metrics.cross_entropy(), nll / count as f64);
    let mut areas = 0.0;
    for class in 0..classes {
        let of = |wanted: fn(bool, bool) -> bool| {
            pairs()
                .filter(|(row, target)| wanted(answer(row) == class, *target == class))
                .count() as f64
        };
        let (tp, fp, missed) = (of(|a, t| a && t), of(|a, t| a && !t), of(|a, t| !a && t));
        close(metrics.f1(class), 2.0 * tp / (2.0 * tp + fp + missed));
        let (mut above, mut all) = (0.0, 0.0);
        for (row, target) in pairs().filter(|(_, target)| *target == class) {
            for (other, _) in pairs().filter(|(_, target)| *target != class) {
                let further = p(row, class) - p(other, class);
                // Equal but for the order in which they are summed.
                let equal = further.abs() < 1e-12;
                above += if equal { 0.5 } else { f64::from(further > 0.0) };
                all += 1.0;
            }
            assert_eq!(target, class);
        }
        close(metrics.auroc(class), above / all);
        areas += above / all;
    }
    close(metrics.macro_auroc(), areas / classes as f64);
    assert_eq!(metrics.confusion().iter().sum::<u64>(), count as u64);
    let one = |from: usize, to: usize| {
        pairs()
            .filter(|(row, target)| *target == from && answer(row) == to)
            .count() as u64
    };
    assert_eq!(metrics.confusion()[1], one(0, 1));
    assert_eq!(metrics.confusion()[3], one(1, 0));
}

#[test]
fn figures_that_are_not_defined_are_left_out() {
    let names = |metrics: Metrics| -> Vec<String> {
        metrics
            .figures()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    };
    assert!(names(Metrics::Class(ClassMetrics::new(2))).is_empty());
    assert!(names(Metrics::Values(ValueMetrics::new(2))).is_empty());
    let mut one_class = ClassMetrics::new(2);
    one_class.add(&[3.0, 1.0, 1.0, 2.0], &[0, 0]).unwrap();
    assert_eq!(one_class.f1(0), Some(2.0 / 3.0));
    assert_eq!(
        names(Metrics::Class(one_class)),
        ["accuracy", "f1", "cross_entropy"]
    );
    let mut labels = LabelMetrics::new(2);
    labels
        .add(&[2.0, -1.0, -2.0, -1.0], &[1.0, 0.0, 1.0, 0.0])
        .unwrap();
    assert_eq!((labels.f1(0), labels.f1(1)), (Some(2.0 / 3.0), None));
    assert_eq!(labels.accuracy(), Some(0.75));
    assert_eq!((labels.auroc(0), labels.auroc(1)), (None, None));
    // One of two that are there ranks above both that are not, the other as one of them: 3.5 of 4 pairs.
    let mut ranked = LabelMetrics::new(1);
    ranked
        .add(&[2.0, 0.5, 0.5, -1.0], &[1.0, 1.0, 0.0, 0.0])
        .unwrap();
    assert_eq!(ranked.auroc(0), Some(3.5 / 4.0));
    // Far apart, where both probabilities are rounded to one.
    let mut sure = ClassMetrics::new(2);
    sure.add(&[0.0, 25.0, 0.0, 18.0, 3.0, 0.0], &[1, 0, 0])
        .unwrap();
    assert_eq!((sure.auroc(0), sure.auroc(1)), (Some(1.0), Some(1.0)));
    let mut values = ValueMetrics::new(2);
    values
        .add(&[1.0, 2.0, 3.0, 4.0], &[1.0, 5.0, 1.0, 4.0])
        .unwrap();
    assert_eq!(values.errors(0), Some([1.0, 2.0_f64.sqrt()]));
    assert_eq!(values.errors(1), Some([1.5, 4.5_f64.sqrt()]));
    assert_eq!(
        (values.mae(), values.rmse()),
        (Some(1.25), Some(3.25_f64.sqrt()))
    );
}

#[test]
fn answers_that_cannot_be_told_of_are_refused() {
    let head = |task: Task| task.head();
    let (class, labels) = (Task::Most, Task::Present);
    let ids = |ids: &[u32]| Numbers::Ids(ids.to_vec());
    let values = |values: &[f32]| Numbers::Values(values.to_vec());
    for (task, outputs, targets, words) in [
        (class, &[1.0, 2.0, 3.0][..], ids(&[3]), "a target"),
        (class, &[1.0, 2.0, 3.0], ids(&[0, 1]), "logits"),
        (class, &[1.0, f32::NAN, 3.0], ids(&[0]), "finite"),
        (class, &[1.0, 2.0, 3.0], values(&[0.0]), "kind"),
        (labels, &[1.0; 4], values(&[0.0; 3]), "targets"),
        (labels, &[1.0; 3], values(&[0.0; 3]), "outputs"),
        (labels, &[f32::INFINITY; 4], values(&[0.0; 4]), "finite"),
    ] {
        let text = Metrics::of(&head(task))
            .add(outputs, &targets)
            .unwrap_err()
            .to_string();
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
    let (classes, few) = (ClassMetrics::new(3), LabelMetrics::new(2));
    assert_eq!(
        (classes.f1(3), classes.auroc(3), few.f1(2), few.auroc(2)),
        (None, None, None, None)
    );
    let mut none = ClassMetrics::new(0);
    assert!(none.add(&[], &[]).is_ok() && none.f1(0).is_none());
    assert!(none.add(&[], &[0]).is_err());
}

#[test]
fn what_does_not_go_together_is_refused_before_the_first_step() {
    let new = |model: Predictor, task: Task, objective: Result<Predict>| {
        Trainer::new(objective?, model, Box::new(task), TrainConfig::default()).map(drop)
    };
    let weights = |weights: &[f32]| Predict::default().weighted(weights);
    let model = || Task::Most.model();
    for (refused, words) in [
        (new(model(), Task::Most, weights(&[1.0, 2.0])), "weights"),
        (
            new(model(), Task::Most, weights(&[1.0, -2.0, 0.0])),
            "weights",
        ),
        (
            new(model(), Task::Most, weights(&[1.0, f32::NAN, 0.0])),
            "weights",
        ),
        (
            new(model(), Task::Most, Predict::default().smoothed(1.0)),
            "smoothing",
        ),
        (
            new(model(), Task::Before, Ok(Predict::default())),
            "head.outputs = 3",
        ),
        (
            new(Task::Wave.model(), Task::Most, Ok(Predict::default())),
            "channels = 2",
        ),
        (new(model(), Task::Most, weights(&[0.0; 3])), "weights"),
        (
            new(Task::Present.model(), Task::Wave, Ok(Predict::default())),
            "head.outputs = 4",
        ),
    ] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
    // A label out of range, from a source that says it has none such.
    #[derive(Debug)]
    struct Wrong(u32);
    impl Source for Wrong {
        fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
            let mut batch = Task::Most.batch(index)?;
            batch.targets = Numbers::Ids(vec![self.0; ROWS]);
            Ok(batch)
        }
        fn bounds(&self) -> Bounds {
            Task::Most.bounds()
        }
        fn description(&self) -> String {
            "wrong".to_owned()
        }
    }
    let config = TrainConfig::default();
    let trainer = Trainer::new(Predict::default(), model(), Box::new(Wrong(3)), config);
    let error = trainer.unwrap().run(Run {
        dir: None,
        observer: &mut Losses::default(),
        stop: &AtomicBool::new(false),
        evaluate: None,
    });
    let Err(Error::Core(error)) = error else {
        panic!("{error:?}");
    };
    let text = error.to_string();
    assert!(text.contains('3') && text.contains("target"), "{text}");
}
