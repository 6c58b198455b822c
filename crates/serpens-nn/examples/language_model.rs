//! A language model from its plan to a file and back: counted before it takes memory, filled, run in two ways, saved,
//! loaded.
//!
//! `cargo run --release -p serpens-nn --example language_model`

use serpens_core::{Device, Tensor};
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLmConfig, Module, Result};

fn main() -> Result<()> {
    let config = MambaLmConfig::new(64, 2, 256); // d_model, layers, tokens
    let plan = config.plan()?;
    println!("{} trained values", plan.count(|param| param.trained)?);
    let model = plan.init(Device::cpu(), 0)?;

    let text = b"a state of fixed size";
    let ids: Vec<u32> = text.iter().copied().map(u32::from).collect();
    let whole = Tensor::from_slice([1, ids.len()], &ids, Device::cpu())?;
    let logits = model.forward(&whole.into(), &Sequence::default(), None)?; // (batch, length, tokens)

    // Token by token, with a state whose size does not depend on how many there were.
    let mut state = model.initial_state(1)?;
    let mut last = Vec::new();
    for id in &ids {
        let id = Tensor::from_slice([1], &[*id], Device::cpu())?;
        last = model.step(&id, &mut state)?.to_vec::<f32>()?;
    }
    let of_whole = logits.mat()?;
    let of_whole = of_whole.row(ids.len() - 1);
    let apart = last.iter().zip(of_whole).map(|(a, b)| (a - b).abs());
    println!("both ways agree to {:.1e}", apart.fold(0.0, f32::max));

    let folder = std::env::temp_dir().join(format!("serpens-example-{}", std::process::id()));
    checkpoint::save(&model, &folder)?;
    let loaded = checkpoint::load(&folder, Device::cpu(), Verify::Digests)?;
    println!("loaded: {} layers", loaded.config().n_layer);
    std::fs::remove_dir_all(&folder).expect("the folder was just written");
    Ok(())
}
