//! Launches of the convolution by definition.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::groups::{GroupSums, Groups};
use super::{DIRECT_LENGTH, Job, grid};

static SOURCE: Source = Source::new("long_conv_direct", include_str!("direct.cu")).params(&[
    DirectConvolveParams::declare,
    DirectCorrelateParams::declare,
]);

/// Channels of a block, and the results of a thread, as the kernels have them.
const CHANNELS: usize = 32;
const RESULTS: usize = 8;
const THREADS: usize = CHANNELS * DIRECT_LENGTH / RESULTS;

kernel_params! {
    struct DirectConvolveParams {
        x: DevicePtr as "const IO*", // (batch, length, channels)
        k: DevicePtr as "const float*", // (length, channels)
        y: DevicePtr as "IO*",
        x_stride: i64,
        k_stride: i64,
        y_stride: i64,
        length: i32,
        channels: i32,
        reversed: i32, // x and y in reversed time
    }
}

/// y = k * x, or the same in reversed time: the correlation of x with k.
pub(super) fn convolve(
    job: Job,
    x: View<'_>,
    k: View<'_>,
    y: ViewMut<'_>,
    reversed: bool,
) -> Result<()> {
    let params = DirectConvolveParams {
        x: x.ptr(),
        k: k.ptr(),
        y: y.ptr(),
        x_stride: x.stride() as i64,
        k_stride: k.stride() as i64,
        y_stride: y.stride() as i64,
        length: job.length,
        channels: job.channels,
        reversed: reversed.into(),
    };
    let defines = [("IO", job.dtype.cuda_name())];
    let kernel = kernel(job.device, &SOURCE, "long_conv_direct", &defines)?;
    let blocks = job.tiles(CHANNELS) * job.batch;
    // SAFETY: the parameters are the kernel's, the views have the sizes of the job.
    unsafe { kernel.launch(grid(blocks), THREADS as u32, 0, &params) }
}

kernel_params! {
    struct DirectCorrelateParams {
        x: DevicePtr as "const IO*", // (batch, length, channels)
        dy: DevicePtr as "const IO*",
        dk: DevicePtr as "float*", // (groups, length, channels): sums over the items of a group
        x_stride: i64,
        dy_stride: i64,
        length: i32,
        channels: i32,
        batch: i64, // in all, in a group
        items: i64,
    }
}

/// dk = Σ_batch of the correlations of dy with x.
pub(super) fn correlate(job: Job, x: View<'_>, dy: View<'_>, dk: ViewMut<'_>) -> Result<()> {
    let tiles = job.tiles(CHANNELS);
    let groups = Groups::new(job.device, job.batch, tiles, 2048 / THREADS)?;
    let mut sums = GroupSums::new(dk, groups.count)?;
    let params = DirectCorrelateParams {
        x: x.ptr(),
        dy: dy.ptr(),
        dk: sums.address()?,
        x_stride: x.stride() as i64,
        dy_stride: dy.stride() as i64,
        length: job.length,
        channels: job.channels,
        batch: job.batch as i64,
        items: groups.items as i64,
    };
    let defines = [("IO", job.dtype.cuda_name())];
    let kernel = kernel(job.device, &SOURCE, "long_conv_direct_correlate", &defines)?;
    // SAFETY: the parameters are the kernel's, the views have the sizes of the job, the sums a place for every group.
    unsafe { kernel.launch(grid(tiles * groups.count), THREADS as u32, 0, &params)? };
    sums.fold()
}
