//! Ten steps of AdamW from the tiny checkpoint of serpens-nn's tests, and of a tiny Transformer++, against the same ten
//! of PyTorch (`scripts/make_model_vectors.py adamw transformer`).

mod losses;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use losses::Losses;
use serpens_core::{Device, Tensor};
use serpens_data::{Batch, Bounds, Numbers, Source};
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::mixers::{AttentionConfig, MlpConfig};
use serpens_nn::{MambaLm, MambaLmConfig, Module};
use serpens_ops::optimizer::AdamW;
use serpens_train::{NextToken, OptimizerConfig, RuleConfig, Run, TrainConfig, Trainer};

const MAMBA: [f64; 10] = [
    4.858890533447266,
    4.928430557250977,
    4.944029331207275,
    4.914074897766113,
    4.846264362335205,
    4.80763578414917,
    4.782739162445068,
    4.850498199462891,
    4.684558391571045,
    4.656405925750732,
];

/// Those of Llama, which is one.
const TRANSFORMER: [f64; 10] = [
    4.8930864334106445,
    4.79132604598999,
    4.91723108291626,
    4.885354042053223,
    4.800525188446045,
    4.807332515716553,
    4.7560834884643555,
    4.790465831756592,
    4.61484432220459,
    4.460524559020996,
];

/// Tokens that follow from their places, as the script's.
struct Places;

impl Source for Places {
    fn batch(&self, step: u64) -> serpens_data::Result<Batch<Numbers>> {
        let token = |b: usize, t: usize| (7 * step as usize + 11 * b + 5 * t + t * t) as u32 % 96;
        let row =
            |from: usize| (0..2).flat_map(move |b| (from..from + 32).map(move |t| token(b, t)));
        Ok(Batch {
            inputs: row(0).collect::<Vec<u32>>(),
            targets: row(1).collect::<Vec<u32>>(),
            batch: 2,
            length: 32,
            starts: None,
        }
        .into())
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: 96,
            targets: 96,
        }
    }

    fn description(&self) -> String {
        "places".to_owned()
    }
}

#[test]
fn ten_steps_of_mamba_have_the_losses_of_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../serpens-nn/tests/fixtures/hf-tiny");
    let model = checkpoint::load(&folder, Device::Cpu, Verify::Digests).unwrap();
    assert_ten_steps(model, MAMBA);
}

#[test]
fn ten_steps_of_a_transformer_have_the_losses_of_pytorch() {
    let attention = AttentionConfig {
        heads: Some(4),
        kv_heads: Some(2),
        ..AttentionConfig::default()
    };
    let mlp = MlpConfig {
        expand: Some(2.0),
        ..MlpConfig::default()
    };
    let config = MambaLmConfig::new(32, 4, 96).with_mixers([attention.into(), mlp.into()]);
    let mut model = config.init(Device::Cpu, 0).unwrap();
    let mut number = 0.0;
    model
        .visit_mut("", &mut |_, param| {
            let shape = param.shape();
            let of_norm = if shape.len() == 1 { 1.0 } else { 0.0 };
            let value = |i: usize| {
                let i = i as f64;
                let angle = 1.0 + 0.7 * number + 1.37 * i + 1e-3 * i * i;
                (0.2 * angle.sin() + of_norm) as f32
            };
            let values: Vec<f32> = (0..shape.count()).map(value).collect();
            number += 1.0;
            param.set(Tensor::from_slice(shape, &values, Device::Cpu)?)
        })
        .unwrap();
    assert_ten_steps(model, TRANSFORMER);
}

fn assert_ten_steps(model: MambaLm, expected: [f64; 10]) {
    let config = TrainConfig {
        steps: 10,
        log_every: 1,
        optimizer: OptimizerConfig {
            rule: RuleConfig::AdamW(AdamW {
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
            }),
            lr: 1e-2,
            weight_decay: 0.1,
            clip: 1.0,
        },
        ..TrainConfig::default()
    };
    let mut losses = Losses::default();
    let run = Run {
        dir: None,
        observer: &mut losses,
        stop: &AtomicBool::new(false),
        evaluate: None,
    };
    let trainer = Trainer::new(NextToken, model, Box::new(Places), config);
    trainer.unwrap().run(run).unwrap();
    assert_eq!(losses.0.len(), expected.len());
    for (step, (ours, theirs)) in losses.0.iter().zip(expected).enumerate() {
        assert!(
            (ours - theirs).abs() <= 1e-5,
            "step {step}: {ours} and {theirs}"
        );
    }
}
