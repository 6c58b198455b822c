//! A classifier of sequences: does the motif CACGT stand in it, on either strand? Trained, tested, saved, and asked.
//!
//! ```text
//! cargo run --release -p serpens-train --example classify
//! ```

use std::sync::atomic::AtomicBool;

use serpens_core::{Device, Tensor};
use serpens_data::{Batch, Bounds, Numbers, Source};
use serpens_nn::checkpoint::{Verify, load_predictor, save_predictor};
use serpens_nn::layers::Sequence;
use serpens_nn::{Answer, HeadConfig, MambaLmConfig, Pooling, PredictorConfig};
use serpens_train::{Predict, Result, Run, Silent, TrainConfig, Trainer, evaluate};

const LENGTH: usize = 32;
const ROWS: usize = 16;
/// A, C, G, T as 0, 1, 2, 3; its reverse complement is ACGTG.
const MOTIF: [u32; 5] = [1, 0, 1, 2, 3];

/// Random bases, half of the sequences with the motif on one of the strands.
struct Motifs;

impl Source for Motifs {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        let mut bits = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |most: usize| {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            (bits >> 33) as usize % most
        };
        let (mut bases, mut classes) = (Vec::new(), Vec::new());
        for _ in 0..ROWS {
            let mut row: Vec<u32> = (0..LENGTH).map(|_| below(4) as u32).collect();
            let (class, place) = (below(2) as u32, below(LENGTH - MOTIF.len()));
            if class == 1 {
                row[place..place + MOTIF.len()].copy_from_slice(&MOTIF);
            }
            if below(2) == 1 {
                row = row.iter().rev().map(|base| 3 - base).collect();
            }
            bases.extend(row);
            classes.push(class);
        }
        Ok(Batch {
            inputs: Numbers::Ids(bases),
            targets: Numbers::Ids(classes), // one of each sequence
            starts: None,
            batch: ROWS,
            length: LENGTH,
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: 4,
            targets: 2,
        }
    }

    fn description(&self) -> String {
        "motifs".to_owned()
    }
}

fn main() -> Result<()> {
    let model = PredictorConfig {
        model: MambaLmConfig::new(32, 2, 4),
        channels: 0, // tokens, no values
        head: HeadConfig {
            answer: Answer::Class,
            outputs: 2,
            pooling: Some(Pooling::Attention),
            complement: vec![3, 2, 1, 0], // both strands are read
        },
    };
    let mut config = TrainConfig {
        steps: 300,
        ..TrainConfig::default()
    };
    config.optimizer.lr = 5e-3;
    let model = model.init(Device::cpu(), 0)?;
    let mut trainer = Trainer::new(Predict::default(), model, Box::new(Motifs), config)?;
    trainer.run(Run {
        dir: None,
        observer: &mut Silent,
        stop: &AtomicBool::new(false),
        evaluate: None,
    })?;
    let unseen = (1 << 40..(1 << 40) + 32).map(|index| Motifs.batch(index));
    let metrics = evaluate::predictions(trainer.model(), unseen, &mut |_| Ok(()))?;
    for (name, value) in metrics.figures() {
        println!("{name:13} {value:.3}");
    }

    let dir = std::env::temp_dir().join(format!("serpens-classify-{}", std::process::id()));
    save_predictor(trainer.model(), &dir)?;
    let model = load_predictor(&dir, Device::cpu(), Verify::Digests)?;
    let bases = [0, 2, 1, 0, 1, 2, 3, 3, 0, 2]; // AGCACGTTAG
    let bases = Tensor::from_slice([1, bases.len()], &bases, Device::cpu())?;
    let logits = model.forward(&bases.into(), &Sequence::default(), None)?;
    println!(
        "logits of AGCACGTTAG: {:.2?}",
        logits.tensor()?.to_vec::<f32>()?
    );
    std::fs::remove_dir_all(&dir).ok();
    Ok(())
}
