//! Steps of AdamW.

use std::collections::BTreeMap;

use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Result, Tensor, bf16};

use super::reference;
use crate::adamw::{AdamW, AdamWSettings, Parameter, Parameters, cpu};
use crate::shared::tests::{assert_near, read, round, tensor, values};

/// Values of each parameter: tails of every kind, and more than one task.
const SIZES: [usize; 6] = [129, 515, 8192, 8193, 20_000, 257];
const BETAS: [f32; 2] = [0.9, 0.95];
const EPS: f32 = 1e-8;
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

/// Value, first and second moment of every parameter after all steps.
type Outcome = Vec<[Vec<f64>; 3]>;

fn exact() -> Outcome {
    let run = |i: usize| {
        let (weight_decay, max_lr) = settings(i);
        let mut p = parameter(i);
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for step in 1..=STEPS {
            let clip = (f64::from(CLIP) / (norm(step) + 1e-6)).min(1.0);
            let g: Vec<f64> = gradient(i, step).iter().map(|g| g * clip).collect();
            let wide = |x: f32| f64::from(x);
            let settings = (
                wide(LR.min(max_lr)),
                wide(BETAS[0]),
                wide(BETAS[1]),
                wide(EPS),
                wide(weight_decay),
                step as i32,
            );
            reference::update(settings, &mut p, &g, &mut m, &mut v);
        }
        [p, m, v]
    };
    (0..SIZES.len()).map(run).collect()
}

/// The definition in plain f32.
fn plain() -> Vec<[Vec<f32>; 3]> {
    let narrow = |x: Vec<f64>| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
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
                m[k] = BETAS[0] * m[k] + (1.0 - BETAS[0]) * g;
                v[k] = BETAS[1] * v[k] + (1.0 - BETAS[1]) * g * g;
                let first = m[k] / (1.0 - BETAS[0].powi(step as i32));
                let second = v[k] / (1.0 - BETAS[1].powi(step as i32));
                p[k] -= lr * first / (second.sqrt() + EPS);
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
    optimizer: AdamW,
}

impl Run {
    fn new(device: Device) -> Self {
        let all = || 0..SIZES.len();
        let value = |i: usize| tensor([SIZES[i]], &parameter(i), DType::F32, device);
        let zeros = |i: usize, dtype| Tensor::zeros([SIZES[i]], dtype, device).unwrap();
        let shadowed = |i: usize| device != Device::Cpu && i.is_multiple_of(2);
        let shadow = |i: usize| shadowed(i).then(|| zeros(i, DType::BF16));
        let settings = AdamWSettings {
            beta1: BETAS[0],
            beta2: BETAS[1],
            eps: EPS,
            clip: CLIP,
        };
        Self {
            parameters: Owned {
                values: all().map(value).collect(),
                gradients: all().map(|i| zeros(i, DType::F32)).collect(),
                shadows: all().map(shadow).collect(),
            },
            optimizer: AdamW::new(settings, 0, BTreeMap::new()),
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
            let [first, second] = &self.optimizer.moments()[&i.to_string()];
            [value, first, second].map(read)
        };
        self.parameters.values.iter().enumerate().map(of).collect()
    }
}

fn run(device: Device) -> Outcome {
    let mut run = Run::new(device);
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
        let rounded = read(value).into_iter().map(|v| bf16::from_f64(v).to_f64());
        if let Some(shadow) = shadow {
            assert_eq!(read(shadow), rounded.collect::<Vec<_>>());
        }
    }
    run.outcome()
}

/// A step, for the programs that it asks for.
pub(crate) fn run_all(device: Device, _: DType) {
    let mut run = Run::new(device);
    run.bring(1, false);
    run.step();
}

#[test]
fn steps_follow_the_definition_on_every_device() {
    let (exact, plain) = (exact(), plain());
    for device in Device::available() {
        let got = run(device);
        for (i, size) in SIZES.into_iter().enumerate() {
            for (k, name) in ["the value", "the first moment", "the second moment"]
                .into_iter()
                .enumerate()
            {
                let what = format!("{name} of {size} values on {device}");
                assert_near(&what, &got[i][k], &exact[i][k], &plain[i][k], DType::F32);
            }
        }
    }
}

#[test]
fn the_norm_of_gradients_of_any_size_is_exact_on_every_device() {
    for device in Device::available() {
        for size in [1e-30, 1e-20, 3e19, 1e36] {
            let mut run = Run::new(device);
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
        assert_eq!(run(device), run(device));
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for device in Device::available() {
        let mut run = Run::new(device);
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
        let mut run = Run::new(device);
        run.bring(1, false);
        run.parameters.values.swap(0, 1);
        let error = run.optimizer.step(&mut run.parameters, LR).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "adamw", .. }), "{error}");
    }
}

#[test]
fn a_recorded_step_does_what_a_queued_one_does() {
    for device in gpus() {
        let [mut queued, mut recorded] = [Run::new(device), Run::new(device)];
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

fn gpus() -> impl Iterator<Item = Device> {
    let devices = Device::available().into_iter();
    devices.filter(|&device| device != Device::Cpu)
}
