//! Reading a prompt: the logits of the token after it.

use serpens_core::{Device, Tensor};
use serpens_formats::Encoding;
use serpens_nn::{MambaLm, MambaLmConfig, Module, ToInfer};
use serpens_ops::quantized_linear::Blocks;

use super::cases::token;
use super::published::{PROMPT, TRAININGS, VOCABULARY};
use super::{Bench, Row, Table};
use crate::{Result, machine};

/// Through the 130m shape with random weights, in f32 and in blocks of 8 bits.
pub(super) fn on_processor(bench: &Bench<'_>) -> Result<Table> {
    const LENGTH: usize = 512;
    let device = bench.clock.device;
    device.reset_high_water();
    let mut model = model(bench, 768, 24, VOCABULARY)?;
    let weights = 4.0 * model.count(|param| param.trained)? as f64;
    let (rate, of_products) = read(bench, &model, 1, LENGTH)?;
    let held = device.memory().high_water as f64;
    let work = format!("130m shape: 24 × 768, V {VOCABULARY}, prompt of {LENGTH}");
    let peak = machine::peak_resident().map(|bytes| bytes as f64 / 1e9);
    let in_f32 = Row::new(format!("{work}, f32"), rate, "tokens/s")
        .with("matrix products, of their peak", of_products)
        .with("tensors, of the weights", held / weights)
        .with("peak memory of the process, GB", peak);
    let blocks = Encoding::Blocks(Blocks::Q8_0);
    model.to_infer(ToInfer {
        device,
        precision: bench.precision,
        weights: Some(blocks),
    })?;
    let (packed, _) = read(bench, &model, 1, LENGTH)?;
    let in_blocks = Row::new(format!("{work}, {blocks}"), packed, "tokens/s");
    Ok(Table {
        title: "Reading a prompt",
        rows: vec![in_f32, in_blocks.with("of f32", packed / rate)],
    })
}

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let (shapes, precision) = (bench.shapes, bench.precision);
    let (_, [width, layers, _], ..) = TRAININGS[0];
    let width = shapes.width.unwrap_or(width);
    let layers = shapes.layers.unwrap_or(layers);
    let vocabulary = shapes.vocab.unwrap_or(VOCABULARY);
    let batch = shapes.batch.unwrap_or(1);
    let (published_length, published_rate) = PROMPT;
    let model = model(bench, width, layers, vocabulary)?;
    let row = |length| {
        let (rate, of_products) = read(bench, &model, batch, length)?;
        let work = format!(
            "{layers} × {width}, V {vocabulary}, B {batch}, prompt of {length}, {precision}"
        );
        let published = bench.as_published.then_some(published_rate);
        Ok(Row::new(work, rate, "tokens/s")
            .with("mamba-rs", published)
            .with("ms", 1e3 * (batch * length) as f64 / rate)
            .with("of products", of_products))
    };
    let lengths = shapes.lengths(&[published_length]).into_iter();
    Ok(Table {
        title: "Reading a prompt (mamba-rs 0.8.2: the backbone alone, on an H200)",
        rows: lengths.map(row).collect::<Result<_>>()?,
    })
}

fn model(bench: &Bench<'_>, width: usize, layers: usize, vocabulary: usize) -> Result<MambaLm> {
    let config = MambaLmConfig::new(width, layers, vocabulary);
    let mut model = config.init(Device::Cpu, 0)?;
    model.to(bench.clock.device, bench.precision)?;
    Ok(model)
}

/// Tokens per second, and what the backbone's matrix products make up of their peak.
fn read(bench: &Bench<'_>, model: &MambaLm, batch: usize, length: usize) -> Result<(f64, f64)> {
    let (width, vocabulary) = (model.config().d_model, model.config().vocab_size);
    let ids = (0..batch * length).map(|i| token(i, vocabulary));
    let ids: Vec<u32> = ids.collect();
    let ids = Tensor::from_slice([batch, length], &ids, bench.clock.device)?;
    let seconds = bench.clock.seconds(|| {
        let mut state = model.initial_state(batch)?;
        model.read(&ids, &mut state)?;
        Ok(())
    })?;
    let rate = (batch * length) as f64 / seconds;
    let head = 2.0 * (width * vocabulary) as f64; // reads the last position only
    let flops = model.flops_per_token()? - head;
    Ok((rate, rate * flops / bench.limits.products(bench.precision)))
}
