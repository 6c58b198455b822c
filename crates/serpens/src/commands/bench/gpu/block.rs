//! One Mamba block: its projections, the convolution and the scan, without the normalisation before it.

use serpens_core::{Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_nn::Module;
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MambaConfig, MixerSettings};

use super::published::{BLOCKS, Passes};
use super::{Bench, Row, Table, or, values};
use crate::Result;

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let mut rows = Vec::new();
    if bench.as_published() {
        for (batch, length, width, passes) in BLOCKS {
            rows.extend(measure(bench, [batch, length, width], Some(passes))?);
        }
    } else {
        let (batch, length, width, _) = BLOCKS[0];
        let (batch, width) = (bench.shapes.batch(batch), or(bench.shapes.width, width));
        for length in bench.shapes.lengths(length) {
            rows.extend(measure(bench, [batch, length, width], None)?);
        }
    }
    Ok(Table {
        title: "One Mamba block (official: mamba_ssm 2.3.2 on an H200)",
        rows,
    })
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, shape: [usize; 3], published: Option<Passes>) -> Result<[Row; 2]> {
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
    let forward_only = bench
        .clock
        .recorded(|| Ok(()), |()| forward(&x).map(drop))?;
    let mut gradients = Gradients::new();
    let both = bench.clock.recorded(
        || Ok(()),
        |()| {
            gradients.clear();
            let (tape, y) = forward(&x)?;
            tape.backward_from(vec![(&y, dy.clone())], &mut gradients)
        },
    )?;
    let row = |pass: &str, seconds: f64, flops: f64, published| {
        let work = format!("{pass}, D {width}, B {batch}, L {length}, {precision}");
        Row::new(work, 1e3 * seconds, "ms").beside(published).with(
            "of products",
            flops / seconds / bench.machine.products(precision),
        )
    };
    Ok([
        row(
            "forward",
            forward_only,
            flops,
            published.map(|passes| passes.forward),
        ),
        row(
            "forward + backward",
            both,
            3.0 * flops,
            published.map(|passes| passes.backward),
        ),
    ])
}
