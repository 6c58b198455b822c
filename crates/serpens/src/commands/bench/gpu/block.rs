//! One Mamba block: its projections, the convolution and the scan, without the normalisation before it.

use serpens_core::{Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_nn::Module;
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MambaConfig, MixerSettings};

use super::published::BLOCKS;
use super::{Bench, Case, Row, Table, values};
use crate::Result;

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let mut rows = Vec::new();
    for case in bench.cases(&BLOCKS, bench.shapes.width) {
        rows.extend(measure(bench, case)?);
    }
    Ok(Table {
        title: "One Mamba block (official: mamba_ssm 2.3.2 on an H200)",
        rows,
    })
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, (shape, [beside_forward, beside_both]): Case) -> Result<[Row; 2]> {
    let (device, precision) = (bench.clock.device, bench.precision());
    let [batch, length, width] = shape;
    let mut mixer = MambaConfig::default().plan(width, 1.0)?.init(device, 0)?;
    mixer.visit_mut("", &mut |_, param| param.to(device, precision))?;
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
        let of_products = flops / seconds / bench.machine.products(precision);
        let row = Row::new(work, 1e3 * seconds, "ms").beside(beside);
        row.with("of products", of_products)
    };
    Ok([
        row("forward", forward_only, flops, beside_forward),
        row("forward + backward", both, 3.0 * flops, beside_both),
    ])
}
