//! Fine-tuning by matrices of low rank: a model learns what is added to its projections, everything else stays; the
//! adapter is kept by itself, as the PEFT library has it, added again, and merged into a model for other programs.
//!
//! `cargo run --release -p serpens-train --example lora`

use std::error::Error;
use std::sync::atomic::AtomicBool;

use serpens_core::Device;
use serpens_data::{InductionHeads, InductionHeadsConfig};
use serpens_formats::Encoding;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{self, Format, Verify};
use serpens_nn::{LoraConfig, MambaLmConfig, Module};
use serpens_train::{NextToken, Run, Silent, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("serpens-lora-{}", std::process::id()));
    let [base, adapter, merged] = ["base", "adapter", "merged"].map(|name| folder.join(name));
    checkpoint::save(&MambaLmConfig::new(32, 2, 16).init(Device::Cpu, 0)?, &base)?;

    // Any model that `Checkpoint::open` opens would do.
    let mut model = checkpoint::load(&base, Device::Cpu, Verify::Digests)?;
    let lora = LoraConfig {
        rank: 4,
        ..LoraConfig::default()
    };
    model.adapt(lora, 1)?;
    let trained = model.count(|param| param.trained && !param.frozen)?;
    println!(
        "{trained} of {} values are trained",
        model.count(|param| param.trained)?
    );

    let task = InductionHeads::new(InductionHeadsConfig {
        vocab: 16,
        batch: 8,
        lengths: vec![32],
        seed: 0,
    })?;
    let config = TrainConfig {
        steps: 50,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(NextToken, model, Box::new(task), config)?;
    trainer.run(Run {
        dir: None,
        observer: &mut Silent,
        stop: &AtomicBool::new(false),
        evaluate: None,
    })?;

    checkpoint::save_adapter(trainer.model(), &adapter, None)?;
    let mut again = checkpoint::load(&base, Device::Cpu, Verify::Digests)?;
    checkpoint::load_adapter(&mut again, &adapter, Verify::Digests)?;
    // Merged on its way out; `again.merge()` would do it in place.
    checkpoint::export(
        &again,
        &merged,
        Format::Hf,
        &|_| Encoding::BF16,
        Metadata::default(),
    )?;
    let out = checkpoint::load(&merged, Device::Cpu, Verify::Digests)?;
    println!(
        "{} values are in the merged model",
        out.count(|param| param.trained)?
    );
    Ok(std::fs::remove_dir_all(folder)?)
}
