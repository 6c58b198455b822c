//! One Mamba block: its projections, the convolution and the scan, without the normalisation before it.

use serpens_nn::Module;
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MambaConfig, MixerSettings};

use super::cases::values;
use super::published::{BLOCKS, Case};
use super::{Bench, Row, Table};
use crate::Result;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let title = "One Mamba block (official: mamba_ssm 2.3.2 on an H200)";
    bench.passes(title, &BLOCKS, bench.shapes.width, measure)
}

/// The rows of the forward, and of forward and backward together.
fn measure(bench: &Bench<'_>, Case(shape, _, published): Case) -> Result<[Row; 2]> {
    let (device, precision) = (bench.clock.device, bench.precision);
    let ([batch, length, width], [beside_forward, beside_both]) = (shape, published);
    let mut mixer = MambaConfig::default().plan(width, 1.0)?.init(device, 0)?;
    mixer.to(device, precision)?;
    let flops = (batch * length) as f64 * mixer.flops_per_token()?;
    let random = |seed| values(shape, seed, precision.activations(), device);
    let inputs = [[random(0)?, random(1)?]];
    let [forward_only, both] = bench.forward_and_both(&inputs, |_, x| {
        Ok(mixer.forward(&x, &Sequence::default(), None)?)
    })?;
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
