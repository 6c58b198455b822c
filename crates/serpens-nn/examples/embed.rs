//! A sequence as a vector: the last hidden state of a model, which has read all of it, and how alike two sequences are
//! by it. Here a model with values of no meaning; `checkpoint::load` brings a published one.
//!
//! `cargo run --release -p serpens-nn --example embed`

use serpens_core::{Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig, Result};

/// The hidden state after the last token.
fn embed(model: &MambaLm, text: &str) -> Result<Vec<f32>> {
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    let ids = Tensor::from_slice([1, ids.len()], &ids, Device::Cpu)?;
    let hidden = model.hidden(&ids.into(), &Sequence::default(), None)?; // (1, length, d_model)
    let hidden = hidden.mat()?;
    Ok(hidden.row(hidden.rows() - 1).to_vec())
}

/// The cosine of the angle between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn main() -> Result<()> {
    let model = MambaLmConfig::new(64, 2, 256).init(Device::Cpu, 0)?;
    let [first, second, third] = [
        "the state after the last token",
        "the state before the last token",
        "42",
    ];
    let [a, b, c] = [first, second, third].map(|text| embed(&model, text));
    let (a, b, c) = (a?, b?, c?);
    println!("{first:?} and {second:?}: {:.3}", cosine(&a, &b));
    println!("{first:?} and {third:?}: {:.3}", cosine(&a, &c));
    Ok(())
}
