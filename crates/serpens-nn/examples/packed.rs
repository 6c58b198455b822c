//! Sequences of different lengths in one batch, in two ways: packed one behind the other, or padded to the longest.
//! Both give the logits and the loss of each sequence by itself.
//!
//! `cargo run --release -p serpens-nn --example packed`

use serpens_core::{Device, Tensor, Var};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig, Result};
use serpens_ops::Starts;
use serpens_ops::cross_entropy::{IGNORE, cross_entropy};

const TEXTS: [&[u8]; 3] = [b"to be, or not to be", b"that is", b"the question"];

/// What stands where there is no token; any one does, as nothing is asked there.
const PADDING: u8 = b' ';

/// The tokens of a row that are read, and those that follow them.
fn inputs_and_targets(text: &[u8]) -> (Vec<u32>, Vec<u32>) {
    let ids: Vec<u32> = text.iter().copied().map(u32::from).collect();
    (ids[..ids.len() - 1].to_vec(), ids[1..].to_vec())
}

/// The logits of rows of ids, (batch, length, tokens), and the loss of their targets.
fn read(
    model: &MambaLm,
    shape: [usize; 2],
    inputs: &[u32],
    targets: &[u32],
    starts: Option<&Starts>,
) -> Result<(Vec<f32>, f64)> {
    let ids: Var = Tensor::from_slice(shape, inputs, Device::cpu())?.into();
    let targets = Tensor::from_slice(shape, targets, Device::cpu())?;
    let sequence = Sequence {
        starts,
        ..Sequence::default()
    };
    let logits = model.forward(&ids, &sequence, None)?;
    let values = logits.tensor()?.to_vec()?;
    Ok((values, cross_entropy(logits, &targets)?.read()?.mean()))
}

/// The largest difference of two rows of logits.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn main() -> Result<()> {
    let config = MambaLmConfig::new(32, 2, 256); // d_model, layers, tokens
    let (model, tokens) = (config.init(Device::cpu(), 0)?, config.vocab_size);
    let rows = TEXTS.map(inputs_and_targets);
    let lengths = rows.each_ref().map(|(inputs, _)| inputs.len());

    // Packed: one row as long as all together, and where its sequences start. Nothing is computed in vain.
    let inputs: Vec<u32> = rows.iter().flat_map(|row| row.0.clone()).collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| row.1.clone()).collect();
    let starts = Starts::from_lengths(&lengths);
    let (packed, of_packed) = read(&model, [1, inputs.len()], &inputs, &targets, Some(&starts))?;

    // Padded behind: a row for each, and targets that the loss leaves out.
    let longest = lengths.into_iter().max().unwrap_or(0);
    let fill = |values: &[u32], with: u32| {
        let mut values = values.to_vec();
        values.resize(longest, with);
        values
    };
    let inputs: Vec<u32> = rows
        .iter()
        .flat_map(|row| fill(&row.0, PADDING.into()))
        .collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| fill(&row.1, IGNORE)).collect();
    let (padded, of_padded) = read(&model, [rows.len(), longest], &inputs, &targets, None)?;

    let mut start = 0;
    for (i, (inputs, targets)) in rows.iter().enumerate() {
        let length = inputs.len();
        let (alone, _) = read(&model, [1, length], inputs, targets, None)?;
        let of_packed = apart(&alone, &packed[start * tokens..]);
        let of_padded = apart(&alone, &padded[i * longest * tokens..]);
        println!(
            "sequence {i} of {length:2}: packed within {of_packed:.1e}, padded within {of_padded:.1e}"
        );
        assert!(of_packed < 1e-3 && of_padded < 1e-3);
        start += length;
    }
    println!("loss: packed {of_packed:.6}, padded {of_padded:.6}");
    assert!((of_packed - of_padded).abs() < 1e-4);
    Ok(())
}
