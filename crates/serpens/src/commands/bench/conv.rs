//! The causal convolution by itself, of width 4 with bias and SiLU.

use serpens_core::DType;
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};

use super::cases::values;
use super::published::{CONVOLUTIONS, Case};
use super::{Bench, Row, Table};
use crate::Result;

const WIDTH: usize = 4;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let title = "Causal convolution of width 4 with bias and SiLU (official: causal_conv1d's CUDA extension on an H200)";
    bench.passes(title, &CONVOLUTIONS, bench.shapes.channels, measure)
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, Case(shape, dtype, published): Case) -> Result<[Row; 2]> {
    let ([batch, length, channels], device) = (shape, bench.clock.device);
    let [beside_forward, beside_both] = published;
    let bytes = batch * length * channels * dtype.size();
    let sets = bench.sets(2 * bytes)?;
    let random = |seed| values(shape, seed, dtype, device);
    let inputs = (0..sets as u32)
        .map(|set| Ok([random(2 * set)?, random(2 * set + 1)?]))
        .collect::<Result<Vec<_>>>()?;
    let weight = values([channels, 1, WIDTH], 1, DType::F32, device)?;
    let bias = values([channels], 2, DType::F32, device)?;
    let options = ConvOptions {
        silu: true,
        ..ConvOptions::default()
    };
    let [forward_only, both] = bench.forward_and_both(&inputs, |tape, x| {
        let [weight, bias] = [&weight, &bias].map(|tensor| tape.leaf(tensor.clone()));
        Ok(causal_conv1d(&x, &weight, Some(&bias), None, &options)?.y)
    })?;
    let row = |pass: &str, seconds: f64, moved: usize, beside| {
        let work = format!("{pass}, B {batch}, E {channels}, L {length}, {dtype}");
        bench.moving(work, seconds / sets as f64, moved, beside)
    };
    Ok([
        row("forward", forward_only, 2 * bytes, beside_forward),
        row("forward + backward", both, 5 * bytes, beside_both),
    ])
}
