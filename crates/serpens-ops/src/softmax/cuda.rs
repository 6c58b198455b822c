//! The softmax on a GPU: a row by a warp, or by a block where it is long.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::Form;
use crate::check;

static SOURCE: Source =
    Source::new("softmax", include_str!("kernel.cu")).params(&[SoftmaxParams::declare]);

/// Threads of a block.
const BLOCK: u32 = 256;
/// Columns of a row that one warp does alone.
const SHORT_ROW: usize = 1024;

kernel_params! {
    struct SoftmaxParams {
        x: DevicePtr as "const IO*", // (rows, cols): the operand; of the gradient the result
        dy: DevicePtr as "const IO*", // (rows, cols), or null
        out: DevicePtr as "IO*", // (rows, cols)
        x_stride: i64,
        out_stride: i64,
        rows: i64,
        cols: i64,
    }
}

/// y = the softmax of each row of x, or its logarithm.
pub(super) fn forward(form: Form, x: View<'_>, y: ViewMut<'_>) -> Result<()> {
    check::float("softmax", "x", x.dtype())?;
    launch("softmax_forward", form, x, None, y)
}

/// dx from the gradient that arrives at y.
pub(super) fn backward(form: Form, y: View<'_>, dy: View<'_>, dx: ViewMut<'_>) -> Result<()> {
    check::dtype("softmax", "the gradient", y.dtype(), dx.dtype())?;
    launch("softmax_backward", form, y, Some(dy), dx)
}

fn launch(
    entry: &'static str,
    form: Form,
    x: View<'_>,
    dy: Option<View<'_>>,
    out: ViewMut<'_>,
) -> Result<()> {
    let (rows, cols, device, dtype) = (x.rows(), x.cols(), x.device(), x.dtype());
    let params = SoftmaxParams {
        x: x.ptr(),
        dy: dy.map_or(DevicePtr::NULL, |dy| dy.ptr()),
        x_stride: x.stride() as i64,
        out_stride: out.stride() as i64,
        out: out.ptr(),
        rows: rows as i64,
        cols: cols as i64,
    };
    let (warps, rows_of_block) = match cols <= SHORT_ROW {
        true => ("1", BLOCK / 32),
        false => ("8", 1),
    };
    let log = if form == Form::LogSoftmax { "1" } else { "0" };
    let defines = [("IO", dtype.cuda_name()), ("WARPS", warps), ("LOG", log)];
    let kernel = kernel(device, &SOURCE, entry, &defines)?;
    let grid = (check::int("softmax", "the number of rows", rows)? as u32).div_ceil(rows_of_block);
    // SAFETY: the parameters are the kernel's; the matrices are of one shape, dy without gaps, the output is borrowed
    // uniquely.
    unsafe { kernel.launch([grid, 1, 1], BLOCK, 0, &params) }
}
