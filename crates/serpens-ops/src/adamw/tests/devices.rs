//! Steps of AdamW.

use serpens_core::cuda::{DevicePtr, Graph};
use serpens_core::{DType, Device, Tensor, bf16};

use super::reference;
use crate::adamw::cpu::{self, Step};
use crate::adamw::cuda::{FusedAdamW, Scalars, Segment};
use crate::shared::tests::{assert_near, read, tensor, values};

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

fn on_cpu() -> Outcome {
    let run = |i: usize| {
        let narrow = |x: Vec<f64>| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
        let (weight_decay, max_lr) = settings(i);
        let mut p = narrow(parameter(i));
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for step in 1..=STEPS {
            let settings = Step {
                lr: LR.min(max_lr),
                beta1: BETAS[0],
                beta2: BETAS[1],
                eps: EPS,
                weight_decay,
                step,
                clip: cpu::clip_factor(norm(step), CLIP.into()),
            };
            let g = narrow(gradient(i, step));
            cpu::update(&settings, &mut p, &g, &mut m, &mut v);
        }
        [p, m, v].map(|x| x.iter().map(|&x| x.into()).collect())
    };
    (0..SIZES.len()).map(run).collect()
}

/// Parameters on a GPU: value, gradient, moments and, of the even ones, a shadow.
struct OnGpu {
    tensors: Vec<[Tensor; 4]>,
    shadows: Vec<Option<Tensor>>,
    optimizer: FusedAdamW,
    scalars: Tensor,
}

impl OnGpu {
    fn new(device: Device) -> Self {
        let zeros = |i: usize| Tensor::zeros([SIZES[i]], DType::F32, device).unwrap();
        let all = |i: usize| {
            let value = tensor([SIZES[i]], &parameter(i), DType::F32, device);
            [value, zeros(i), zeros(i), zeros(i)]
        };
        let shadow = |i: usize| Tensor::zeros([SIZES[i]], DType::BF16, device).unwrap();
        let mut parameters = Self {
            tensors: (0..SIZES.len()).map(all).collect(),
            shadows: (0..SIZES.len())
                .map(|i| i.is_multiple_of(2).then(|| shadow(i)))
                .collect(),
            optimizer: FusedAdamW::new(device, BETAS[0], BETAS[1], EPS).unwrap(),
            scalars: Tensor::zeros([4], DType::F32, device).unwrap(),
        };
        parameters.point();
        parameters
    }

    /// Tells the optimiser where everything is.
    fn point(&mut self) {
        let mut segments = Vec::new();
        for (i, tensors) in self.tensors.iter_mut().enumerate() {
            let mut ptr = |k: usize| tensors[k].view_mut().unwrap().ptr();
            let (weight_decay, max_lr) = settings(i);
            segments.push(Segment {
                value: ptr(0),
                gradient: ptr(1),
                first: ptr(2),
                second: ptr(3),
                shadow: match &mut self.shadows[i] {
                    Some(shadow) => shadow.view_mut().unwrap().ptr(),
                    None => DevicePtr::NULL,
                },
                len: SIZES[i] as u64,
                weight_decay,
                max_lr,
            });
        }
        // SAFETY: the tensors live as long as the optimiser, and are told again whenever they change.
        unsafe { self.optimizer.set_segments(&segments).unwrap() };
    }

    /// Brings the gradients and scalars of a step to the device.
    fn prepare(&mut self, step: u64, broken: bool) {
        let device = self.scalars.device();
        for (i, tensors) in self.tensors.iter_mut().enumerate() {
            let mut g = gradient(i, step);
            if broken && i == 3 {
                g[5] = f64::NAN;
            }
            tensors[1] = tensor([SIZES[i]], &g, DType::F32, device);
        }
        let scalars = Scalars {
            lr: LR,
            step,
            clip: CLIP,
        };
        let values = scalars.values(BETAS[0], BETAS[1]);
        self.scalars = Tensor::from_slice([4], &values, device).unwrap();
        self.point();
    }

    fn step(&mut self) {
        self.optimizer.step(&self.scalars).unwrap();
    }

    fn outcome(&self) -> Outcome {
        let of = |tensors: &[Tensor; 4]| [0, 2, 3].map(|k| read(&tensors[k]));
        self.tensors.iter().map(of).collect()
    }
}

fn on_gpu(device: Device) -> Outcome {
    let mut parameters = OnGpu::new(device);
    for step in 1..=STEPS {
        parameters.prepare(step, false);
        parameters.step();
        let outcome = read(parameters.optimizer.outcome());
        let factor = (f64::from(CLIP) / norm(step)).min(1.0);
        assert!((outcome[0] / norm(step) - 1.0).abs() < 1e-6, "{outcome:?}");
        assert!((outcome[1] / factor - 1.0).abs() < 1e-6, "{outcome:?}");
    }
    for (i, shadow) in parameters.shadows.iter().enumerate() {
        let value = read(&parameters.tensors[i][0]);
        let rounded = value.iter().map(|&v| bf16::from_f64(v).to_f64());
        if let Some(shadow) = shadow {
            assert_eq!(read(shadow), rounded.collect::<Vec<_>>());
        }
    }
    parameters.outcome()
}

fn gpus() -> impl Iterator<Item = Device> {
    let devices = Device::available().into_iter();
    devices.filter(|&device| device != Device::Cpu)
}

#[test]
fn steps_follow_the_definition_on_every_device() {
    let (exact, plain) = (exact(), plain());
    for device in Device::available() {
        let got = match device {
            Device::Cpu => on_cpu(),
            Device::Cuda(_) => on_gpu(device),
        };
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
fn two_runs_give_the_same_bits_on_every_gpu() {
    for device in gpus() {
        assert_eq!(on_gpu(device), on_gpu(device));
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for device in gpus() {
        let mut parameters = OnGpu::new(device);
        parameters.prepare(1, false);
        parameters.step();
        let before = parameters.outcome();
        parameters.prepare(2, true);
        parameters.step();
        assert!(read(parameters.optimizer.outcome())[0].is_nan());
        assert_eq!(parameters.outcome(), before);
    }
}

#[test]
fn a_recorded_step_does_what_a_queued_one_does() {
    for device in gpus() {
        let [mut queued, mut recorded] = [OnGpu::new(device), OnGpu::new(device)];
        for parameters in [&mut queued, &mut recorded] {
            parameters.prepare(1, false);
            parameters.step();
        }
        let graph = Graph::capture(device, || recorded.optimizer.step(&recorded.scalars)).unwrap();
        for _ in 0..2 {
            queued.step();
            graph.replay().unwrap();
        }
        assert_eq!(queued.outcome(), recorded.outcome());
    }
}
