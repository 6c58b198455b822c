//! The causal convolution by itself, of width 4 with bias and SiLU.

use serpens_core::{DType, Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};

use super::cases::values;
use super::published::{CONVOLUTIONS, Case};
use super::{Bench, Row, Table};
use crate::Result;

const WIDTH: usize = 4;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    Ok(Table {
        title: "Causal convolution of width 4 with bias and SiLU (official: causal_conv1d's CUDA extension on an H200)",
        rows: bench.passes(&CONVOLUTIONS, bench.shapes.channels, measure)?,
    })
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, case: Case) -> Result<[Row; 2]> {
    let Case { shape, dtype, .. } = case;
    let ([batch, length, channels], device) = (shape, bench.clock.device);
    let [beside_forward, beside_both] = case.published;
    let bytes = batch * length * channels * dtype.size();
    let sets = bench.sets(2 * bytes)?;
    let random = |seed| values(shape, seed, dtype, device);
    let inputs = (0..sets as u32)
        .map(|set| Ok([random(2 * set)?, random(2 * set + 1)?]))
        .collect::<Result<Vec<_>>>()?;
    let weight = values([channels, 1, WIDTH], 1, DType::F32, device)?;
    let bias = values([channels], 2, DType::F32, device)?;
    let forward = |x: &Tensor| -> CoreResult<(Tape, Var)> {
        let tape = Tape::new();
        let leaf = |tensor: &Tensor| tape.leaf(tensor.clone());
        let options = ConvOptions {
            silu: true,
            ..ConvOptions::default()
        };
        let (x, weight, bias) = (leaf(x), leaf(&weight), leaf(&bias));
        let y = causal_conv1d(&x, &weight, Some(&bias), None, &options)?.y;
        Ok((tape, y))
    };
    let forward_only = bench.clock.recorded(
        || Ok(()),
        |()| inputs.iter().try_for_each(|[x, _]| forward(x).map(drop)),
    )?;
    let both = bench.clock.recorded(
        || Ok(()),
        |()| {
            inputs.iter().try_for_each(|[x, dy]| {
                let (tape, y) = forward(x)?;
                tape.backward_from(vec![(&y, dy.clone())], &mut Gradients::new())
            })
        },
    )?;
    let row = |pass: &str, seconds: f64, moved: usize, beside| {
        let work = format!("{pass}, B {batch}, E {channels}, L {length}, {dtype}");
        bench.moving(work, seconds / sets as f64, moved, beside)
    };
    Ok([
        row("forward", forward_only, 2 * bytes, beside_forward),
        row("forward + backward", both, 5 * bytes, beside_both),
    ])
}
