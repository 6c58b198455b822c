//! Ten steps of AdamW from the tiny checkpoint of serpens-nn's tests, against the same ten of PyTorch
//! (`scripts/make_model_vectors.py adamw`).

mod losses;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use losses::Losses;
use serpens_core::Device;
use serpens_data::{Batch, Bounds, Source};
use serpens_nn::checkpoint::{self, Verify};
use serpens_ops::optimizer::AdamW;
use serpens_train::{NextToken, OptimizerConfig, RuleConfig, Run, TrainConfig, Trainer};

const LOSSES: [f64; 10] = [
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

/// Tokens that follow from their places, as the script's.
struct Places;

impl Source for Places {
    fn batch(&self, step: u64) -> serpens_data::Result<Batch> {
        let token = |b: usize, t: usize| (7 * step as usize + 11 * b + 5 * t + t * t) as u32 % 96;
        let row =
            |from: usize| (0..2).flat_map(move |b| (from..from + 32).map(move |t| token(b, t)));
        Ok(Batch {
            inputs: row(0).collect(),
            targets: row(1).collect(),
            batch: 2,
            length: 32,
            starts: None,
        })
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
fn ten_steps_have_the_losses_of_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../serpens-nn/tests/fixtures/hf-tiny");
    let model = checkpoint::load(&folder, Device::Cpu, Verify::Digests).unwrap();
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
    assert_eq!(losses.0.len(), LOSSES.len());
    for (step, (ours, theirs)) in losses.0.iter().zip(LOSSES).enumerate() {
        assert!(
            (ours - theirs).abs() <= 1e-5,
            "step {step}: {ours} and {theirs}"
        );
    }
}
