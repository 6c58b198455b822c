//! One Mamba block: its projections, the convolution and the scan, without the normalisation before it.

use serpens_core::DType;
use serpens_nn::Module;
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{MambaConfig, MixerSettings};

use super::cases::{Passes, values};
use super::published::BLOCKS;
use super::{Bench, Table};
use crate::Result;

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let title = "One Mamba block (official: mamba_ssm 2.3.2 on an H200)";
    let width = bench.shapes.width;
    bench.passes(title, &BLOCKS, width, "of products", measure)
}

/// The forward, and forward and backward together.
fn measure(bench: &Bench<'_>, shape: [usize; 3], _: DType) -> Result<Passes> {
    let (device, precision) = (bench.clock.device, bench.precision);
    let [batch, length, width] = shape;
    let mut mixer = MambaConfig::default().plan(width, 1.0)?.init(device, 0)?;
    mixer.to(device, precision)?;
    let flops = (batch * length) as f64 * mixer.flops_per_token()?;
    let random = |seed| values(shape, seed, precision.activations(), device);
    let inputs = [[random(0)?, random(1)?]];
    let [forward, both] = bench.forward_and_both(&inputs, |_, x| {
        Ok(mixer.forward(&x, &Sequence::default(), None)?)
    })?;
    let most = bench.limits.products(precision);
    let passes = [
        ("forward", forward, flops / forward / most),
        ("forward + backward", both, 3.0 * flops / both / most),
    ];
    let sizes = format!("D {width}, B {batch}, L {length}, {precision}");
    Ok((sizes, passes))
}
