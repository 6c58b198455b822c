//! A vector for a text: the normalised output of the last layer at its last token, or the mean over all tokens.
//!
//! `cargo run --release -p serpens-infer --example embed_a_sequence`

use serpens_core::{Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig, Result};

/// (the last, the mean), each d_model values.
fn embed(model: &MambaLm, text: &str) -> Result<(Vec<f32>, Vec<f32>)> {
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    let ids = Tensor::from_slice([1, ids.len()], &ids, model.device())?; // (batch, length)
    let hidden = model.hidden(&ids.into(), &Sequence::default(), None)?; // (batch, length, d_model)
    let hidden = hidden.mat()?;
    let mean = (0..hidden.cols()).map(|channel| {
        let sum: f32 = (0..hidden.rows()).map(|t| hidden.row(t)[channel]).sum();
        sum / hidden.rows() as f32
    });
    Ok((hidden.row(hidden.rows() - 1).to_vec(), mean.collect()))
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn main() -> Result<()> {
    let model = MambaLmConfig::new(32, 2, 256).init(Device::cpu(), 0)?; // d_model, layers, tokens
    let texts = ["a snake in the grass", "a snake in the gras", "1 2 3 4 5 6"];
    let vectors = texts.map(|text| embed(&model, text));
    let [first, ..] = &vectors;
    let first = first.as_ref().expect("the text has tokens");
    for (text, vector) in texts.iter().zip(&vectors) {
        let (last, mean) = vector.as_ref().expect("the text has tokens");
        let (last, mean) = (cosine(&first.0, last), cosine(&first.1, mean));
        println!("{text:22} like the first: by the last token {last:6.3}, by the mean {mean:6.3}");
        assert!(last <= 1.001 && mean <= 1.001);
    }
    Ok(())
}
