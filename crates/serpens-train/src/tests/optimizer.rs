use serpens_core::{Gradients, Tape, Tensor};
use serpens_nn::{Module, Param, Start, module};

use super::*;
use crate::AdamW;

struct Two {
    weight: Param,
    bias: Param,
}

module!(Two { weight => "weight", bias => "bias" });

/// The rule in f64 with plain loops.
struct Reference {
    values: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    decay: f64,
}

impl Reference {
    fn new(values: &[f32], decay: f64) -> Self {
        let zeros = vec![0.0; values.len()];
        let values = values.iter().map(|&x| f64::from(x)).collect();
        Self {
            values,
            m: zeros.clone(),
            v: zeros,
            decay,
        }
    }

    fn step(&mut self, config: &AdamWConfig, gradient: &[f64], lr: f64, t: i32) {
        let (beta1, beta2) = (f64::from(config.beta1), f64::from(config.beta2));
        for (i, g) in gradient.iter().enumerate() {
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let m = self.m[i] / (1.0 - beta1.powi(t));
            let v = self.v[i] / (1.0 - beta2.powi(t));
            self.values[i] *= 1.0 - lr * self.decay;
            self.values[i] -= lr * m / (v.sqrt() + f64::from(config.eps));
        }
    }
}

fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (1.7 * i as f32 + phase).sin()).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice([values.len()], values, Device::cpu()).unwrap()
}

fn param(values: &[f32]) -> Param {
    Param::new([values.len()], Start::Row(values.to_vec()))
}

#[test]
fn steps_over_a_module_are_those_of_a_plain_loop() {
    for clip in [0.0, 0.5, 100.0] {
        let config = AdamWConfig {
            weight_decay: 0.3,
            clip,
            ..AdamWConfig::default()
        };
        let (w, b) = (wave(37, 0.2), wave(5, 0.9));
        let mut module = Two {
            weight: param(&w),
            bias: param(&b).without_decay(),
        };
        module.fill(Device::cpu(), 0).unwrap();
        let mut expected = [Reference::new(&w, 0.3), Reference::new(&b, 0.0)];
        let mut optimizer = AdamW::new(config);
        for t in 1..=8 {
            let lr = 0.01 * t as f32;
            let parts = [wave(37, t as f32), wave(5, -t as f32)];
            let mut gradients = Gradients::new();
            let vars = [&module.weight, &module.bias].map(|param| param.var().unwrap());
            let seeds = vars
                .iter()
                .zip(&parts)
                .map(|(var, part)| (var, tensor(part)));
            Tape::new()
                .backward_from(seeds.collect(), &mut gradients)
                .unwrap();
            let norm = optimizer.step(&mut module, &mut gradients, lr).unwrap();
            let squares = parts.iter().flatten().map(|&g| f64::from(g).powi(2));
            let exact: f64 = squares.sum::<f64>().sqrt();
            assert!((norm - exact).abs() < 1e-6 * exact, "{norm} and {exact}");
            let scale = if clip > 0.0 {
                (f64::from(clip) / exact).min(1.0)
            } else {
                1.0
            };
            for (reference, part) in expected.iter_mut().zip(&parts) {
                let scaled: Vec<f64> = part.iter().map(|&g| scale * f64::from(g)).collect();
                reference.step(&config, &scaled, lr.into(), t);
            }
        }
        for (param, reference) in [&module.weight, &module.bias].into_iter().zip(&expected) {
            for (got, want) in param
                .value()
                .unwrap()
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .zip(&reference.values)
            {
                assert!(
                    (f64::from(*got) - want).abs() < 4e-6,
                    "clip {clip}: {got} and {want}"
                );
            }
        }
        assert_eq!(optimizer.rule.steps(), 8);
    }
}

#[test]
fn a_parameter_without_gradient_stays() {
    let mut module = Two {
        weight: param(&[1.0, 2.0]),
        bias: param(&[3.0]),
    };
    module.fill(Device::cpu(), 0).unwrap();
    let mut gradients = Gradients::new();
    let bias = module.bias.var().unwrap();
    let seeds = vec![(&bias, tensor(&[1.0]))];
    Tape::new().backward_from(seeds, &mut gradients).unwrap();
    AdamW::new(AdamWConfig::default())
        .step(&mut module, &mut gradients, 0.1)
        .unwrap();
    assert_eq!(
        module.weight.value().unwrap().to_vec::<f32>().unwrap(),
        [1.0, 2.0]
    );
    assert!(module.bias.value().unwrap().to_vec::<f32>().unwrap()[0] < 3.0);
}

#[test]
fn an_optimiser_of_a_programs_own_loop_goes_on_from_a_file_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    let config = AdamWConfig::default();
    let begin = || {
        let mut module = Two {
            weight: param(&wave(37, 0.2)),
            bias: param(&wave(5, 0.9)),
        };
        module.fill(Device::cpu(), 0).unwrap();
        (module, AdamW::new(config))
    };
    let step = |module: &mut Two, optimizer: &mut AdamW, t: f32| {
        let mut gradients = Gradients::new();
        let vars = [&module.weight, &module.bias].map(|param| param.var().unwrap());
        let seeds = [tensor(&wave(37, t)), tensor(&wave(5, -t))];
        Tape::new()
            .backward_from(vars.iter().zip(seeds).collect(), &mut gradients)
            .unwrap();
        optimizer.step(module, &mut gradients, 0.01).unwrap();
    };
    let ((mut whole, mut of_whole), (mut cut, mut of_cut)) = (begin(), begin());
    for t in 0..6 {
        if t == 3 {
            of_cut.save(&path).unwrap();
            of_cut = AdamW::load(config, of_cut.steps(), &path, &cut).unwrap();
        }
        step(&mut whole, &mut of_whole, t as f32);
        step(&mut cut, &mut of_cut, t as f32);
    }
    assert_eq!(of_cut.steps(), 6);
    assert_eq!(bits(&whole), bits(&cut));
}
