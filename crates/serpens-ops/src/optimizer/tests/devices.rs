//! Steps of every rule.

use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Result, Tensor, bf16};

use super::reference::Definition;
use super::{BETAS, EPS, adamw, rules};
use crate::optimizer::cpu::{Block, Step};
use crate::optimizer::{Optimizer, Parameter, Parameters, Rule, cpu};
use crate::shared::tests::{assert_near, read, round, tensor, values};

/// Values of each parameter: tails of every kind, and more than one task.
const SIZES: [usize; 6] = [129, 515, 8192, 8193, 20_000, 257];
const LR: f32 = 1e-2;
const STEPS: u64 = 5;
/// Brings the gradients down in most steps.
const CLIP: f32 = 50.0;

/// Each second parameter decays, each third has a limit on its learning rate.
fn settings(i: usize) -> (f32, f32) {
    let weight_decay = if i.is_multiple_of(2) { 0.1 } else { 0.0 };
    let max_lr = if i.is_multiple_of(3) { 1e-3 } else { f32::MAX };
    (weight_decay, max_lr)
}

fn parameter(i: usize) -> Vec<f64> {
    values(100 + i as u64, [SIZES[i]], 1.0, DType::F32)
}

fn gradient(i: usize, step: u64) -> Vec<f64> {
    values(1000 * step + i as u64, [SIZES[i]], 1.0, DType::F32)
}

fn norm(step: u64) -> f64 {
    let all = (0..SIZES.len()).flat_map(|i| gradient(i, step));
    all.map(|g| g * g).sum::<f64>().sqrt()
}

/// Value and moments of every parameter after all steps.
type Outcome = Vec<Vec<Vec<f64>>>;

fn exact(definition: Definition) -> Outcome {
    let run = |i: usize| {
        let (weight_decay, max_lr) = settings(i);
        let mut p = parameter(i);
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for step in 1..=STEPS {
            let clip = (f64::from(CLIP) / (norm(step) + 1e-6)).min(1.0);
            let g: Vec<f64> = gradient(i, step).iter().map(|g| g * clip).collect();
            let numbers = (LR.min(max_lr).into(), weight_decay.into(), step as i32);
            definition.update(numbers, &mut p, &g, &mut m, &mut v);
        }
        vec![p, m, v]
    };
    (0..SIZES.len()).map(run).collect()
}

/// The definition in plain f32.
fn plain(definition: Definition) -> Vec<[Vec<f32>; 3]> {
    let narrow = |x: Vec<f64>| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
    let mixed = |beta: f32, old: f32, new: f32| beta * old + (1.0 - beta) * new;
    let run = |i: usize| {
        let (weight_decay, max_lr) = settings(i);
        let mut p = narrow(parameter(i));
        let (mut m, mut v) = (vec![0.0_f32; p.len()], vec![0.0_f32; p.len()]);
        let lr = LR.min(max_lr);
        for step in 1..=STEPS {
            let clip = cpu::clip_factor(norm(step), CLIP.into());
            for (k, g) in narrow(gradient(i, step)).into_iter().enumerate() {
                let g = g * clip;
                p[k] -= lr * weight_decay * p[k];
                match definition {
                    Definition::AdamW { .. } => {
                        m[k] = mixed(BETAS[0], m[k], g);
                        v[k] = mixed(BETAS[1], v[k], g * g);
                        let first = m[k] / (1.0 - BETAS[0].powi(step as i32));
                        let second = v[k] / (1.0 - BETAS[1].powi(step as i32));
                        p[k] -= lr * first / (second.sqrt() + EPS);
                    }
                    Definition::Sgd { .. } => {
                        m[k] = BETAS[0] * m[k] + g;
                        p[k] -= lr * m[k];
                    }
                    Definition::Lion { .. } => {
                        p[k] -= lr * mixed(BETAS[0], m[k], g).signum();
                        m[k] = mixed(BETAS[1], m[k], g);
                    }
                }
            }
        }
        [p, m, v]
    };
    (0..SIZES.len()).map(run).collect()
}

/// The parameters on a device: value, gradient and, of the even ones on a GPU, a shadow.
struct Owned {
    values: Vec<Tensor>,
    gradients: Vec<Tensor>,
    shadows: Vec<Option<Tensor>>,
}

impl Parameters for Owned {
    fn each(&mut self, f: &mut dyn FnMut(Parameter<'_>) -> Result<()>) -> Result<()> {
        for (i, value) in self.values.iter_mut().enumerate() {
            let (weight_decay, max_lr) = settings(i);
            f(Parameter {
                name: &i.to_string(),
                value,
                shadow: self.shadows[i].as_mut(),
                gradient: &self.gradients[i],
                weight_decay,
                max_lr,
            })?;
        }
        Ok(())
    }
}

/// An optimiser with its parameters.
struct Run {
    parameters: Owned,
    optimizer: Optimizer,
}

impl Run {
    fn new(rule: Box<dyn Rule>, device: Device) -> Self {
        let all = || 0..SIZES.len();
        let value = |i: usize| tensor([SIZES[i]], &parameter(i), DType::F32, device);
        let zeros = |i: usize, dtype| Tensor::zeros([SIZES[i]], dtype, device).unwrap();
        let shadowed = |i: usize| device != Device::Cpu && i.is_multiple_of(2);
        let shadow = |i: usize| shadowed(i).then(|| zeros(i, DType::BF16));
        Self {
            parameters: Owned {
                values: all().map(value).collect(),
                gradients: all().map(|i| zeros(i, DType::F32)).collect(),
                shadows: all().map(shadow).collect(),
            },
            optimizer: Optimizer::new(rule, CLIP),
        }
    }

    /// Brings the gradients of a step to the device.
    fn bring(&mut self, step: u64, broken: bool) {
        for (i, to) in self.parameters.gradients.iter_mut().enumerate() {
            let mut g = gradient(i, step);
            if broken && i == 3 {
                g[5] = f64::NAN;
            }
            *to = tensor([SIZES[i]], &g, DType::F32, to.device());
        }
    }

    fn step(&mut self) -> f64 {
        self.optimizer.step(&mut self.parameters, LR).unwrap()
    }

    fn outcome(&self) -> Outcome {
        let of = |(i, value): (usize, &Tensor)| {
            let moments = &self.optimizer.moments()[&i.to_string()];
            std::iter::once(value).chain(moments).map(read).collect()
        };
        self.parameters.values.iter().enumerate().map(of).collect()
    }
}

fn run(rule: Box<dyn Rule>, device: Device) -> Outcome {
    let mut run = Run::new(rule, device);
    for step in 1..=STEPS {
        run.bring(step, false);
        let got = run.step();
        assert!((got / norm(step) - 1.0).abs() < 1e-6, "{got} on {device}");
        assert_eq!(run.optimizer.steps(), step);
        if let Some(fused) = &run.optimizer.fused {
            let factor = (f64::from(CLIP) / norm(step)).min(1.0);
            let got = fused.outcome().unwrap()[1];
            assert!((f64::from(got) / factor - 1.0).abs() < 1e-6, "{got}");
        }
    }
    for (shadow, value) in run.parameters.shadows.iter().zip(&run.parameters.values) {
        // `from_f64` looks at the upper half of the f64 alone, and so takes what lies just above a tie for one.
        let rounded = read(value).into_iter();
        let rounded = rounded.map(|v| bf16::from_f32(v as f32).to_f64());
        if let Some(shadow) = shadow {
            assert_eq!(read(shadow), rounded.collect::<Vec<_>>());
        }
    }
    run.outcome()
}

/// A step, for the programs that it asks for.
pub(crate) fn run_all(device: Device, _: DType) {
    for (rule, _) in rules() {
        let mut run = Run::new(rule, device);
        run.bring(1, false);
        run.step();
    }
}

#[test]
fn steps_follow_the_definition_on_every_device() {
    for which in 0..rules().len() {
        let (exact, plain) = (exact(rules()[which].1), plain(rules()[which].1));
        for device in Device::available() {
            let [rule, name] = [0, 0].map(|_| rules().into_iter().nth(which).unwrap().0);
            let got = run(rule, device);
            for (i, size) in SIZES.into_iter().enumerate() {
                assert_eq!(got[i].len(), 1 + name.moments().len());
                for (k, got) in got[i].iter().enumerate() {
                    let kind = ["the value", "the first moment", "the second moment"][k];
                    let what = format!("{}: {kind} of {size} values on {device}", name.name());
                    assert_near(&what, got, &exact[i][k], &plain[i][k], DType::F32);
                }
            }
        }
    }
}

#[test]
fn the_norm_of_gradients_of_any_size_is_exact_on_every_device() {
    for device in Device::available() {
        for size in [1e-30, 1e-20, 3e19, 1e36] {
            let mut run = Run::new(adamw(), device);
            let mut squares = 0.0;
            for (i, to) in run.parameters.gradients.iter_mut().enumerate() {
                let g: Vec<f64> = gradient(i, 1)
                    .iter()
                    .map(|g| round(g * size, DType::F32))
                    .collect();
                squares += g.iter().map(|g| g * g).sum::<f64>();
                *to = tensor([SIZES[i]], &g, DType::F32, device);
            }
            let norm = run.step();
            assert!(
                (norm / squares.sqrt() - 1.0).abs() < 1e-6,
                "{norm} on {device}"
            );
            assert_eq!(run.optimizer.steps(), 1, "{size} on {device}");
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for device in Device::available() {
        for (first, second) in rules().into_iter().zip(rules()) {
            assert_eq!(run(first.0, device), run(second.0, device));
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for device in Device::available() {
        let mut run = Run::new(adamw(), device);
        run.bring(1, false);
        run.step();
        let before = run.outcome();
        run.bring(2, true);
        assert!(run.step().is_nan());
        assert_eq!((run.outcome(), run.optimizer.steps()), (before, 1));
    }
}

#[test]
fn tensors_that_do_not_fit_the_gradient_are_refused_on_every_device() {
    for device in Device::available() {
        let mut run = Run::new(adamw(), device);
        run.bring(1, false);
        run.parameters.values.swap(0, 1);
        let error = run.optimizer.step(&mut run.parameters, LR).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Shape {
                    op: "optimizer",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_recorded_step_does_what_a_queued_one_does() {
    let cases = gpus().flat_map(|gpu| {
        rules()
            .into_iter()
            .zip(rules())
            .map(move |pair| (gpu, pair))
    });
    for (device, (first, second)) in cases {
        let [mut queued, mut recorded] = [first, second].map(|(rule, _)| Run::new(rule, device));
        for run in [&mut queued, &mut recorded] {
            run.bring(1, false);
            run.step();
        }
        let prepare = |run: &mut Run| run.optimizer.prepare(&mut run.parameters, LR).unwrap();
        assert!(!prepare(&mut recorded), "nothing has moved");
        let graph = Graph::capture(device, || recorded.optimizer.launch()).unwrap();
        for _ in 0..2 {
            queued.step();
            prepare(&mut recorded);
            graph.replay().unwrap();
            recorded.optimizer.finish().unwrap();
        }
        assert_eq!(queued.outcome(), recorded.outcome());
    }
}

#[test]
fn gradients_of_any_size_move_values_by_about_the_learning_rate() {
    for device in Device::available() {
        let mut run = Run::new(adamw(), device);
        run.optimizer = Optimizer::new(adamw(), 0.0);
        let before: Vec<_> = run.parameters.values.iter().map(read).collect();
        for size in [1.0, 3e19, 1e34] {
            for (i, to) in run.parameters.gradients.iter_mut().enumerate() {
                let g = vec![round(size, DType::F32); SIZES[i]];
                *to = tensor([SIZES[i]], &g, DType::F32, device);
            }
            run.step();
        }
        for (i, before) in before.iter().enumerate() {
            let (weight_decay, max_lr) = settings(i);
            let lr = f64::from(LR.min(max_lr));
            for (got, before) in read(&run.parameters.values[i]).iter().zip(before) {
                let moved = before * (1.0 - 3.0 * lr * f64::from(weight_decay)) - got;
                assert!(moved > 0.9 * lr && moved < 6.0 * lr, "{moved} on {device}");
            }
        }
    }
}

/// Without moments, and for the processor alone.
#[derive(Debug)]
struct Sign;

impl Rule for Sign {
    fn name(&self) -> &'static str {
        "sign"
    }

    fn moments(&self) -> &'static [&'static str] {
        &[]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let lr = step.lr;
        block.each(move |g, []| lr * g.signum());
    }
}

#[test]
fn a_rule_of_ones_own_needs_a_program_on_a_gpu_only() {
    for device in Device::available() {
        let mut run = Run::new(Box::new(Sign), device);
        run.bring(1, false);
        let stepped = run.optimizer.step(&mut run.parameters, LR);
        if device != Device::Cpu {
            let error = stepped.unwrap_err();
            assert!(matches!(error, Error::Missing { .. }), "{error}");
            continue;
        }
        let norm_of_step = stepped.unwrap();
        assert!((norm_of_step / norm(1) - 1.0).abs() < 1e-6);
        for (i, value) in run.parameters.values.iter().enumerate() {
            let (weight_decay, max_lr) = settings(i);
            let lr = f64::from(LR.min(max_lr));
            let pairs = parameter(i).into_iter().zip(gradient(i, 1));
            for ((p, g), got) in pairs.zip(read(value)) {
                let want = p * (1.0 - lr * f64::from(weight_decay)) - lr * g.signum();
                assert!((got - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }
}

fn gpus() -> impl Iterator<Item = Device> {
    let devices = Device::available().into_iter();
    devices.filter(|&device| device != Device::Cpu)
}
