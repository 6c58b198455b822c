//! A checkpoint in the layout of Hugging Face's `transformers`: a folder as a download makes it, here a tiny one with
//! values of no meaning, is loaded, compared with what its name promises, and predicts the next token.
//!
//! `cargo run --release -p serpens-nn --example from_hugging_face [FOLDER]`

use std::path::{Path, PathBuf};

use serpens_core::{Device, Tensor};
use serpens_formats::safetensors::write_tensors;
use serpens_nn::checkpoint::{CONFIG_FILE, Checkpoint, Options, WEIGHTS_FILE};
use serpens_nn::layers::Sequence;
use serpens_nn::{Module, Result};

/// As `MambaForCausalLM.save_pretrained` writes it; what is left out is as in the paper.
const CONFIG: &str = r#"{
  "architectures": ["MambaForCausalLM"],
  "model_type": "mamba",
  "vocab_size": 13,
  "hidden_size": 8,
  "num_hidden_layers": 2,
  "state_size": 4,
  "time_step_rank": "auto"
}"#;

/// Values that look random: sines of their places.
fn tensor(shape: &[usize], scale: f32) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (1..=count)
        .map(|i| scale * (0.7 * i as f32).sin())
        .collect();
    Ok(Tensor::from_slice(
        serpens_core::Shape::new(shape),
        &values,
        Device::Cpu,
    )?)
}

/// Writes the folder that a download would be.
fn make(folder: &Path) -> Result<()> {
    let (vocab, width, inner, state, rank, taps) = (13, 8, 16, 4, 1, 4);
    let mut tensors = vec![
        (
            "backbone.embeddings.weight".to_owned(),
            tensor(&[vocab, width], 0.5)?,
        ),
        ("backbone.norm_f.weight".to_owned(), tensor(&[width], 1.0)?),
    ];
    for layer in 0..2 {
        let shapes: [(&str, &[usize]); 10] = [
            ("norm.weight", &[width]),
            ("mixer.in_proj.weight", &[2 * inner, width]),
            ("mixer.conv1d.weight", &[inner, 1, taps]),
            ("mixer.conv1d.bias", &[inner]),
            ("mixer.x_proj.weight", &[rank + 2 * state, inner]),
            ("mixer.dt_proj.weight", &[inner, rank]),
            ("mixer.dt_proj.bias", &[inner]),
            ("mixer.A_log", &[inner, state]),
            ("mixer.D", &[inner]),
            ("mixer.out_proj.weight", &[width, inner]),
            // With `"use_bias": true` the projections would have biases too.
        ];
        for (name, shape) in shapes {
            let name = format!("backbone.layers.{layer}.{name}");
            tensors.push((name, tensor(shape, 0.3)?));
        }
    }
    write_tensors(&folder.join(WEIGHTS_FILE), &tensors)?;
    std::fs::write(folder.join(CONFIG_FILE), CONFIG).expect("the folder is there");
    Ok(())
}

fn main() -> Result<()> {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let made = std::env::temp_dir().join(format!("serpens-from-hf-{}", std::process::id()));
    let folder = given.as_deref().unwrap_or(&made);
    if given.is_none() {
        std::fs::create_dir_all(folder).expect("a folder");
        make(folder)?;
    }

    // Only headers are read: the parameters' names and shapes must be those of the configuration.
    let opened = Checkpoint::open(folder, &Options::default())?;
    println!("{} values", opened.plan().count(|param| param.trained)?);

    let model = opened.load(Device::Cpu)?;
    let ids = Tensor::from_slice([1, 4], &[3_u32, 1, 4, 1], Device::Cpu)?; // (batch, length)
    let logits = model.forward(&ids.into(), &Sequence::default(), None)?; // (batch, length, tokens)
    let logits = logits.mat()?;
    let last = logits.row(3);
    println!(
        "logits of the next token: {:.3?} …",
        &last[..8.min(last.len())]
    );
    let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]));
    println!("the likeliest: token {}", best.unwrap_or_default());

    if given.is_none() {
        std::fs::remove_dir_all(folder).expect("the folder was just made");
    }
    Ok(())
}
