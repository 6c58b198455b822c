//! Gradients of parameters on a GPU: the sums that blocks have left in a workspace, added in a fixed order.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{Result, Tensor, ViewMut, kernel_params};

static SOURCE: Source = Source::new("fold", include_str!("fold.cu")).params(&[FoldParams::declare]);

/// Columns and threads of a block, as the kernel has them.
const COLUMNS: usize = 32;
const THREADS: u32 = 512;

kernel_params! {
    struct FoldParams {
        partials: DevicePtr as "const float*", // (count, columns)
        first: DevicePtr as "float*", // (channels, width)
        second: DevicePtr as "float*", // (channels), or null: not asked for
        count: i64,
        columns: i64, // channels · width, or channels more with the sums of the second
        // column k · channels + c of the partials is value (c, k) of the first, and with k = width value c of the
        // second
        channels: i64,
        width: i64,
    }
}

/// Sums the rows of `partials`, whose columns are those of `first`: (channels, width) transposed and, where they are
/// more, those of `second`: (channels).
pub(crate) fn fold(
    partials: &Tensor,
    channels: usize,
    first: ViewMut<'_>,
    second: Option<ViewMut<'_>>,
) -> Result<()> {
    let sums = partials.view();
    let params = FoldParams {
        partials: sums.ptr(),
        first: first.ptr(),
        second: second.map_or(DevicePtr::NULL, |second| second.ptr()),
        count: sums.rows() as i64,
        columns: sums.cols() as i64,
        channels: channels as i64,
        width: (first.rows() * first.cols() / channels.max(1)) as i64,
    };
    let kernel = kernel(first.device(), &SOURCE, "fold", &[])?;
    let blocks = sums.cols().div_ceil(COLUMNS) as u32;
    // SAFETY: the parameters are the kernel's, the matrices have the sizes that they say.
    unsafe { kernel.launch([blocks, 1, 1], THREADS, 0, &params) }
}
