//! One Mamba block: its projections, the convolution and the scan, without the normalisation before it.

use serpens_core::{Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_nn::Module;
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MambaConfig, MixerSettings};

use super::cases::values;
use super::published::{BLOCKS, Case};
use super::{Bench, Row, Table};
use crate::Result;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    Ok(Table {
        title: "One Mamba block (official: mamba_ssm 2.3.2 on an H200)",
        rows: bench.passes(&BLOCKS, bench.shapes.width, measure)?,
    })
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, case: Case) -> Result<[Row; 2]> {
    let (device, precision, shape) = (bench.clock.device, bench.precision, case.shape);
    let [batch, length, width] = shape;
    let [beside_forward, beside_both] = case.published;
    let mut mixer = MambaConfig::default().plan(width, 1.0)?.init(device, 0)?;
    mixer.to(device, precision)?;
    let flops = (batch * length) as f64 * mixer.flops_per_token()?;
    let x = values(shape, 0, precision.activations(), device)?;
    let dy = values(shape, 1, precision.activations(), device)?;
    let forward = |x: &Tensor| -> CoreResult<(Tape, Var)> {
        let tape = Tape::new();
        let y = mixer.forward(&tape.leaf(x.clone()), &Sequence::default(), None)?;
        Ok((tape, y))
    };
    let clock = &bench.clock;
    let forward_only = clock.recorded(|| Ok(()), |()| forward(&x).map(drop))?;
    let mut gradients = Gradients::new();
    let both = clock.recorded(
        || Ok(()),
        |()| {
            gradients.clear();
            let (tape, y) = forward(&x)?;
            tape.backward_from(vec![(&y, dy.clone())], &mut gradients)
        },
    )?;
    let row = |pass: &str, seconds: f64, flops: f64, beside| {
        let work = format!("{pass}, D {width}, B {batch}, L {length}, {precision}");
        let of_products = flops / seconds / bench.limits.products(precision);
        let row = Row::new(work, 1e3 * seconds, "ms");
        bench.beside(row, beside).with("of products", of_products)
    };
    Ok([
        row("forward", forward_only, flops, beside_forward),
        row("forward + backward", both, 3.0 * flops, beside_both),
    ])
}
