//! Whole models: training steps, and reading a prompt.

use serpens_core::{Device, Gradients, Tape, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig, Module};
use serpens_ops::cross_entropy::cross_entropy;
use serpens_train::{AdamW, AdamWConfig};

use super::machine::Machine;
use super::{Row, Table, Timer};
use crate::{Result, machine};

/// (what it is, width, layers, vocabulary, batch, length)
const TRAINED: [(&str, usize, usize, usize, usize, usize); 2] = [
    ("byte model", 128, 4, 256, 8, 256),
    ("the main job's model", 64, 2, 16, 8, 256),
];

fn model(config: &MambaLmConfig) -> Result<MambaLm> {
    Ok(config.init(Device::cpu(), 0)?)
}

fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * 7919 + i / 3) % vocabulary) as u32)
        .collect()
}

/// Tokens per second of full training steps: forward, loss, backward, clipping, AdamW.
pub(super) fn train(timer: Timer, machine: &Machine) -> Result<Table> {
    let mut rows = Vec::new();
    for (name, width, layers, vocabulary, batch, length) in TRAINED {
        let mut model = model(&MambaLmConfig::new(width, layers, vocabulary))?;
        let flops = 3.0 * model.flops_per_token()?;
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let mut gradients = Gradients::new();
        let ids = tokens(batch * length, vocabulary);
        let ids = Tensor::from_slice([batch, length], &ids, Device::cpu())?;
        let mut step = || -> Result<()> {
            let tape = Tape::new();
            let logits = model.forward(&tape.constant(ids.clone()), &Sequence::default(), None)?;
            let result = cross_entropy(logits, &ids)?;
            tape.backward(&result.loss, 1.0, &mut gradients)?;
            optimizer.step(&mut model, &mut gradients, 1e-3)?;
            gradients.clear();
            Ok(())
        };
        // The pool is full after the first steps; what is asked of the system after them is a leak.
        (0..3).try_for_each(|_| step())?;
        let before = Device::cpu().memory().allocations;
        let seconds = timer.try_seconds(|| (0..STEPS).try_for_each(|_| step()))?;
        let rate = (STEPS * batch * length) as f64 / seconds;
        let new = Device::cpu().memory().allocations - before;
        let work =
            format!("{name}: {layers} × {width}, V {vocabulary}, batch {batch}, length {length}");
        rows.push(products(work, rate, flops, machine).with("new buffers", new as f64));
    }
    Ok(Table {
        title: "Training, f32: forward, loss, backward, clipping, AdamW",
        rows,
    })
}

/// A row of tokens per second that take so many operations in matrix products each.
fn products(work: impl Into<String>, rate: f64, flops: f64, machine: &Machine) -> Row {
    let of_peak = rate * flops / machine.gemm_all / 1e9;
    Row::new(work, rate, "tokens/s").with("matrix products, of their peak", of_peak)
}

/// Steps per measurement.
const STEPS: usize = 4;

/// Tokens per second of a prompt of 512 tokens through the 130m shape with random weights.
pub(super) fn prompt(timer: Timer, machine: &Machine) -> Result<Table> {
    const LENGTH: usize = 512;
    Device::cpu().release_unused();
    let model = model(&MambaLmConfig::new(768, 24, 50_280))?;
    let weights = 4.0 * model.count(|param| param.trained)? as f64;
    let ids = tokens(LENGTH, 50_280);
    let ids = Tensor::from_slice([1, LENGTH], &ids, Device::cpu())?;
    let seconds = timer.try_seconds(|| {
        let mut state = model.initial_state(1)?;
        model.read(&ids, &mut state).map(drop)
    })?;
    let rate = LENGTH as f64 / seconds;
    // The head reads the last position only.
    let backbone = model.flops_per_token()? - 2.0 * 768.0 * 50_280.0;
    let held = Device::cpu().memory().high_water as f64;
    let work = "130m shape: 24 × 768, V 50280, prompt of 512";
    let mut row =
        products(work, rate, backbone, machine).with("tensors, of the weights", held / weights);
    if let Some(peak) = machine::peak_resident() {
        row = row.with("peak memory of the process, GB", peak as f64 / 1e9);
    }
    Ok(Table {
        title: "Reading a prompt, f32",
        rows: vec![row],
    })
}
