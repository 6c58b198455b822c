//! The fused scan in a program of one's own: values, the state carried from one half to the next, gradients.
//!
//! `cargo run --release -p serpens-ops --example selective_scan`

use serpens_core::{Device, Gradients, Result, Tape, Tensor, Var};
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};

const BATCH: usize = 1;
const LENGTH: usize = 64;
const CHANNELS: usize = 32;
const STATE: usize = 16;

fn wave(shape: impl Into<serpens_core::Shape>, pace: f32) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.count())
        .map(|i| (i as f32 * pace).sin())
        .collect();
    Tensor::from_slice(shape, &values, Device::cpu())
}

fn main() -> Result<()> {
    let decays: Vec<f32> = (0..CHANNELS * STATE)
        .map(|i| -((i % STATE + 1) as f32))
        .collect();
    let tape = Tape::new();
    let u = tape.leaf(wave([BATCH, LENGTH, CHANNELS], 0.1)?);
    let delta = tape.leaf(wave([BATCH, LENGTH, CHANNELS], 0.01)?);
    let a = Var::from(Tensor::from_slice(
        [CHANNELS, STATE],
        &decays,
        Device::cpu(),
    )?);
    let b = Var::from(wave([BATCH, LENGTH, STATE], 0.3)?);
    let c = Var::from(wave([BATCH, LENGTH, STATE], 0.7)?);
    let operands = ScanOperands {
        u: &u,
        delta: &delta,
        a: &a,
        a_im: None,
        b: &b,
        c: &c,
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
    };
    let output = selective_scan(&operands, &ScanOptions::default())?;
    println!("y           {}", output.y.shape()); // (batch, length, channels)
    println!("last state  {}", output.last_state.shape()); // (batch, channels, N)

    // What another sequence would begin from, had this one been read before it.
    let continued = ScanOperands {
        initial_state: Some(&output.last_state),
        ..operands
    };
    let next = selective_scan(&continued, &ScanOptions::default())?;

    let dy = Tensor::full(next.y.shape(), 1.0_f32, Device::cpu())?;
    tape.backward_from(vec![(&next.y, dy)], &mut Gradients::new())?;
    for (name, leaf) in [("du", &u), ("dΔ", &delta)] {
        let gradient = tape.gradient(leaf)?.expect("the output depends on it");
        let norm: f32 = gradient.as_slice::<f32>()?.iter().map(|g| g * g).sum();
        println!("|{name}|        {:.4}", norm.sqrt());
    }
    Ok(())
}
