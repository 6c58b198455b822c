//! Reading a prompt: the logits of the token after it.

use serpens_core::{Device, Tensor};
use serpens_nn::MambaLmConfig;

use super::published::{PROMPT, TRAININGS, VOCABULARY};
use super::{Bench, Row, Table, or};
use crate::Result;

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let (device, precision, shapes) = (bench.clock.device, bench.precision(), bench.shapes);
    let (width, layers) = (
        or(shapes.width, TRAININGS[0].width),
        or(shapes.layers, TRAININGS[0].layers),
    );
    let (vocabulary, batch) = (or(shapes.vocab, VOCABULARY), shapes.batch(1));
    let (published_length, published_rate) = PROMPT;
    let config = MambaLmConfig::new(width, layers, vocabulary);
    let mut model = config.init(Device::Cpu, 0)?;
    model.to(device, precision)?;
    let head = 2.0 * (width * vocabulary) as f64; // reads the last position only
    let flops = model.flops_per_token()? - head;
    let mut rows = Vec::new();
    for length in shapes.lengths(published_length) {
        let ids: Vec<u32> = (0..batch * length)
            .map(|i| (i * 7919 % vocabulary) as u32)
            .collect();
        let ids = Tensor::from_slice([batch, length], &ids, device)?;
        let seconds = bench.clock.seconds(|| {
            let mut state = model.initial_state(batch)?;
            model.read(&ids, &mut state)?;
            Ok(())
        })?;
        let rate = (batch * length) as f64 / seconds;
        let work = format!(
            "{layers} × {width}, V {vocabulary}, B {batch}, prompt of {length}, {precision}"
        );
        let mut row = Row::new(work, rate, "tokens/s");
        if bench.as_published() {
            row = row.with("mamba-rs", published_rate);
        }
        let of_products = rate * flops / bench.machine.products(precision);
        rows.push(
            row.with("ms", 1e3 * seconds)
                .with("of products", of_products),
        );
    }
    Ok(Table {
        title: "Reading a prompt (mamba-rs 0.8.2: the backbone alone, on an H200)",
        rows,
    })
}
