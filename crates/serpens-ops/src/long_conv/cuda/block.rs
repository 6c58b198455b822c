//! Launches of the convolution of sequences that one block holds.

use serpens_core::cuda::{DevicePtr, KernelParams, Source};
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::groups::{GroupSums, Groups};
use super::tile::Tile;
use super::{Job, grid};

static SOURCE: Source = Source::new(
    "long_conv_block",
    concat!(
        include_str!("fft.cuh"),
        include_str!("convolve.cuh"),
        include_str!("block.cu")
    ),
)
.params(&[ConvolveParams::declare, CorrelateParams::declare])
// The gradients keep a few registers in memory from one item to the next, outside the passes.
.may_spill(|_| true);

/// Channels of a block: 512 threads where these are needed to have 4 or 8 channels side by side, else 256, which leave
/// room for a second block.
fn width(size: usize) -> usize {
    match size {
        1024.. => 8192 / size,
        _ => 4096 / size,
    }
}

kernel_params! {
    struct ConvolveParams {
        x: DevicePtr as "const IO*", // (batch, length, channels)
        k: DevicePtr as "const float*", // (length, channels)
        y: DevicePtr as "IO*", // (batch, length, channels)
        x_stride: i64,
        k_stride: i64,
        y_stride: i64,
        batch: i64, // in all, in a group
        items: i64,
        length: i32,
        channels: i32,
        correlate: i32, // y_s = Σ_(t ≥ s) k_(t-s) x_t rather than y_t = Σ_(s ≤ t) k_s x_(t-s)
    }
}

/// y = k * x, or the correlation of x with k.
pub(super) fn convolve(
    job: Job,
    size: usize,
    x: View<'_>,
    k: View<'_>,
    y: ViewMut<'_>,
    correlate: bool,
) -> Result<()> {
    let tile = Tile::new(job.device, size, width(size), 1)?;
    let tiles = job.tiles(tile.width);
    let groups = Groups::new(job.device, job.batch, tiles, tile.resident())?;
    let params = ConvolveParams {
        x: x.ptr(),
        k: k.ptr(),
        y: y.ptr(),
        x_stride: x.stride() as i64,
        k_stride: k.stride() as i64,
        y_stride: y.stride() as i64,
        batch: job.batch as i64,
        items: groups.items as i64,
        length: job.length,
        channels: job.channels,
        correlate: correlate.into(),
    };
    let kernel = tile.kernel(job.device, &SOURCE, "long_conv_convolve", Some(job.dtype))?;
    // SAFETY: the parameters are the kernel's, the views have the sizes of the job.
    unsafe {
        kernel.launch(
            grid(tiles * groups.count),
            tile.threads(),
            tile.shared(),
            &params,
        )
    }
}

kernel_params! {
    struct CorrelateParams {
        x: DevicePtr as "const IO*", // (batch, length, channels)
        dy: DevicePtr as "const IO*",
        k: DevicePtr as "const float*", // (length, channels)
        dx: DevicePtr as "IO*", // (batch, length, channels), or null
        dk: DevicePtr as "float*", // (groups, length, channels): sums over the items of a group
        x_stride: i64,
        dy_stride: i64,
        k_stride: i64,
        dx_stride: i64,
        batch: i64, // in all, in a group
        items: i64,
        length: i32,
        channels: i32,
    }
}

/// dx = the correlation of dy with k, dk = Σ_batch of those of dy with x.
pub(super) fn correlate(
    job: Job,
    size: usize,
    [x, dy]: [View<'_>; 2],
    k: View<'_>,
    dx: Option<ViewMut<'_>>,
    dk: ViewMut<'_>,
) -> Result<()> {
    let tile = Tile::new(job.device, size, width(size), 2)?;
    let tiles = job.tiles(tile.width);
    let groups = Groups::new(job.device, job.batch, tiles, tile.resident())?;
    let mut sums = GroupSums::new(dk, groups.count)?;
    let params = CorrelateParams {
        x: x.ptr(),
        dy: dy.ptr(),
        k: k.ptr(),
        dx: dx.as_ref().map_or(DevicePtr::NULL, ViewMut::ptr),
        dk: sums.address()?,
        x_stride: x.stride() as i64,
        dy_stride: dy.stride() as i64,
        k_stride: k.stride() as i64,
        dx_stride: dx.as_ref().map_or(0, |dx| dx.stride() as i64),
        batch: job.batch as i64,
        items: groups.items as i64,
        length: job.length,
        channels: job.channels,
    };
    let kernel = tile.kernel(job.device, &SOURCE, "long_conv_correlate", Some(job.dtype))?;
    // SAFETY: the parameters are the kernel's, the views have the sizes of the job, the sums a place for every group.
    unsafe {
        kernel.launch(
            grid(tiles * groups.count),
            tile.threads(),
            tile.shared(),
            &params,
        )?
    };
    sums.fold()
}
