//! The causal convolution by itself, of width 4 with bias and SiLU.

use serpens_core::DType;
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};

use super::cases::{Passes, values};
use super::published::CONVOLUTIONS;
use super::{Bench, Table};
use crate::Result;

const WIDTH: usize = 4;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let title = "Causal convolution of width 4 with bias and SiLU (official: causal_conv1d's CUDA extension on an H200)";
    let width = bench.shapes.channels;
    bench.passes(title, &CONVOLUTIONS, width, "of copying", measure)
}

/// The forward, and forward and backward together.
fn measure(bench: &Bench<'_>, shape: [usize; 3], dtype: DType) -> Result<Passes> {
    let ([batch, length, channels], device) = (shape, bench.clock.device);
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
    let seconds = bench.forward_and_both(&inputs, |tape, x| {
        let [weight, bias] = [&weight, &bias].map(|tensor| tape.leaf(tensor.clone()));
        Ok(causal_conv1d(&x, &weight, Some(&bias), None, &options)?.y)
    })?;
    let [forward, both] = seconds.map(|seconds| seconds / sets as f64);
    let passes = [
        bench.moving("forward", forward, 2 * bytes),
        bench.moving("forward + backward", both, 5 * bytes),
    ];
    let sizes = format!("B {batch}, E {channels}, L {length}, {dtype}");
    Ok((sizes, passes))
}
