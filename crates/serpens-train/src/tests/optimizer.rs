use serpens_core::{Gradients, Tape, Tensor};
use serpens_formats::Verify;
use serpens_nn::{Module, Param, Start, module};
use serpens_ops::optimizer::cpu::{Block, Step};
use serpens_ops::optimizer::{AdamW, Rule};

use super::*;
use crate::{Damage, Error, Optimizer, RuleConfig};

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

    fn step(&mut self, rule: &AdamW, gradient: &[f64], lr: f64, t: i32) {
        let (beta1, beta2) = (f64::from(rule.beta1), f64::from(rule.beta2));
        for (i, g) in gradient.iter().enumerate() {
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let m = self.m[i] / (1.0 - beta1.powi(t));
            let v = self.v[i] / (1.0 - beta2.powi(t));
            self.values[i] *= 1.0 - lr * self.decay;
            self.values[i] -= lr * m / (v.sqrt() + f64::from(rule.eps));
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
        let config = OptimizerConfig {
            weight_decay: 0.3,
            clip,
            ..OptimizerConfig::default()
        };
        let RuleConfig::AdamW(rule) = config.rule else {
            panic!("another rule");
        };
        let (w, b) = (wave(37, 0.2), wave(5, 0.9));
        let mut module = Two {
            weight: param(&w),
            bias: param(&b).without_decay(),
        };
        module.fill(Device::cpu(), 0).unwrap();
        let mut expected = [Reference::new(&w, 0.3), Reference::new(&b, 0.0)];
        let mut optimizer = Optimizer::new(config);
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
                reference.step(&rule, &scaled, lr.into(), t);
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
        assert_eq!(optimizer.steps(), 8);
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
    Optimizer::new(OptimizerConfig::default())
        .step(&mut module, &mut gradients, 0.1)
        .unwrap();
    assert_eq!(
        module.weight.value().unwrap().to_vec::<f32>().unwrap(),
        [1.0, 2.0]
    );
    assert!(module.bias.value().unwrap().to_vec::<f32>().unwrap()[0] < 3.0);
}

/// A module and its optimiser at the beginning.
fn begin(optimizer: Optimizer) -> (Two, Optimizer) {
    let mut module = Two {
        weight: param(&wave(37, 0.2)),
        bias: param(&wave(5, 0.9)),
    };
    module.fill(Device::cpu(), 0).unwrap();
    (module, optimizer)
}

fn step((module, optimizer): &mut (Two, Optimizer), t: f32) {
    let mut gradients = Gradients::new();
    let vars = [&module.weight, &module.bias].map(|param| param.var().unwrap());
    let seeds = [tensor(&wave(37, t)), tensor(&wave(5, -t))];
    Tape::new()
        .backward_from(vars.iter().zip(seeds).collect(), &mut gradients)
        .unwrap();
    optimizer.step(module, &mut gradients, 0.01).unwrap();
}

/// AdaGrad, as a program may bring it.
#[derive(Clone, Debug)]
struct AdaGrad;

impl Rule for AdaGrad {
    fn name(&self) -> &'static str {
        "adagrad"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["squares"]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let lr = step.lr;
        block.each(move |g, [squares]| {
            *squares += g * g;
            lr * g / (squares.sqrt() + 1e-10)
        });
    }
}

/// An optimiser of each kind, and one with a rule of a program's own.
fn optimizers() -> [Optimizer; 4] {
    let [adamw, sgd, lion] = [
        OptimizerConfig::ADAMW,
        OptimizerConfig::SGD,
        OptimizerConfig::LION,
    ];
    let own = Optimizer::of(Box::new(AdaGrad), adamw);
    [
        Optimizer::new(adamw),
        Optimizer::new(sgd),
        Optimizer::new(lion),
        own,
    ]
}

#[test]
fn optimisers_of_a_programs_own_loop_go_on_from_a_file_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    let fresh = optimizers().into_iter().zip(optimizers()).zip(optimizers());
    for ((whole, cut), loaded) in fresh {
        let (mut whole, mut cut) = (begin(whole), begin(cut));
        (0..3).for_each(|t| step(&mut whole, t as f32));
        (0..3).for_each(|t| step(&mut cut, t as f32));
        cut.1.save(&path).unwrap();
        cut.1 = loaded
            .load(cut.1.steps(), &path, &cut.0, Verify::Digests)
            .unwrap();
        (3..6).for_each(|t| step(&mut whole, t as f32));
        (3..6).for_each(|t| step(&mut cut, t as f32));
        assert_eq!(cut.1.steps(), 6);
        assert_eq!(bits(&whole.0), bits(&cut.0));
    }
}

#[test]
fn moments_of_another_rule_are_refused_whichever_these_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    for (i, optimizer) in optimizers().into_iter().enumerate() {
        let mut run = begin(optimizer);
        step(&mut run, 0.0);
        run.1.save(&path).unwrap();
        let kept: usize = if i == 0 { 2 } else { 1 };
        assert_eq!(run.1.state().len(), 2 * kept, "moments of two parameters");
        for (j, other) in optimizers().into_iter().enumerate() {
            match other.load(1, &path, &run.0, Verify::Digests) {
                Ok(_) => assert_eq!(i, j),
                Err(Error::Damaged { source, .. }) => {
                    assert_ne!(i, j);
                    assert!(matches!(source, Damage::SurplusMoment { .. }), "{source}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
