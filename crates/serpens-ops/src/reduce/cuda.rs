//! Reductions on a GPU: over everything by blocks first and then over these in order, over rows by a warp or a block
//! each.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use crate::check;

static SOURCE: Source = Source::new("reduce", include_str!("kernel.cu"))
    .params(&[SumParams::declare, SpreadParams::declare]);

/// Threads of a block.
const BLOCK: u32 = 256;
/// Values that a block sums where everything is summed.
const VALUES: usize = 16 * 1024;
/// Columns of a row that one warp sums alone.
const SHORT_ROW: usize = 1024;

kernel_params! {
    struct SumParams {
        a: DevicePtr as "const IO*", // (rows, cols)
        b: DevicePtr as "const IO*", // the same, or null: a itself is summed, not (a - b)²
        a_stride: i64,
        b_stride: i64,
        rows: i64,
        cols: i64,
        partials: DevicePtr as "double*", // (blocks)
        y: DevicePtr as "float*", // (1) or (rows)
        values: i64, // of a block
        blocks: u32,
        factor: f32,
    }

    struct SpreadParams {
        dy: DevicePtr as "const float*", // (1) or (rows)
        dy_step: i64, // from row to row
        a: DevicePtr as "const IO*", // (rows, cols), or null: dx = factor · dy
        b: DevicePtr as "const IO*",
        da: DevicePtr as "IO*",
        db: DevicePtr as "IO*",
        a_stride: i64,
        b_stride: i64,
        da_stride: i64,
        db_stride: i64,
        rows: i64,
        cols: i64,
        factor: f32,
    }
}

/// y = factor · Σ of x, or of the squared differences of two: over everything where y is one value, over each row
/// otherwise.
pub(super) fn sum<const I: usize>(
    op: &'static str,
    x: [View<'_>; I],
    factor: f32,
    y: ViewMut<'_>,
) -> Result<()> {
    let (first, last) = (x[0], x[I - 1]);
    check::float(op, "an operand", first.dtype())?;
    check::dtype(op, "an operand", first.dtype(), last.dtype())?;
    let device = first.device();
    // Without gaps between them, all rows are one long row.
    let dense = x.iter().all(|x| x.stride() == x.cols());
    let everything = y.rows() * y.cols() == 1;
    let (rows, cols) = match everything && dense {
        true => (1, first.rows() * first.cols()),
        false => (first.rows(), first.cols()),
    };
    let rows_as_int = check::int(op, "the number of rows", rows)? as u32;
    let blocks = (rows * cols).div_ceil(VALUES);
    let blocks_as_int = check::int(op, "the number of blocks", blocks)? as u32;
    // Two values of f32 are the place of one of f64.
    let mut partials = match everything {
        true => Some(Tensor::empty([blocks, 2], DType::F32, device)?),
        false => None,
    };
    let partials = partials.as_mut().map(Tensor::view_mut).transpose()?;
    let params = SumParams {
        a: first.ptr(),
        b: if I == 2 { last.ptr() } else { DevicePtr::NULL },
        a_stride: first.stride() as i64,
        b_stride: last.stride() as i64,
        rows: rows as i64,
        cols: cols as i64,
        partials: partials.map_or(DevicePtr::NULL, |partials| partials.ptr()),
        y: y.ptr(),
        values: VALUES as i64,
        blocks: blocks_as_int,
        factor,
    };
    let warps = if cols <= SHORT_ROW { 1 } else { 8 };
    let program = |entry| program(device, entry, first.dtype(), warps);
    // SAFETY: the parameters are the kernels'; the views are valid for their sizes, y has a value for each sum and the
    // partials one for each block.
    unsafe {
        if everything {
            program("reduce_blocks")?.launch([blocks_as_int, 1, 1], BLOCK, 0, &params)?;
            program("reduce_fold")?.launch([1, 1, 1], BLOCK, 0, &params)
        } else {
            let grid = rows_as_int.div_ceil(BLOCK / 32 / warps);
            program("reduce_rows")?.launch([grid, 1, 1], BLOCK, 0, &params)
        }
    }
}

/// dx\[r, c\] = factor · dy, or dy\[r\] where there is one for each row.
pub(super) fn spread(dy: View<'_>, factor: f32, dx: ViewMut<'_>) -> Result<()> {
    let params = SpreadParams {
        factor,
        ..spread_params(dy, &dx)
    };
    launch_spread("reduce_spread", &params, &dx)
}

/// da = 2 factor · dy · (a − b), db = −da.
pub(super) fn squared_error_backward(
    dy: View<'_>,
    [a, b]: [View<'_>; 2],
    factor: f32,
    [da, db]: [ViewMut<'_>; 2],
) -> Result<()> {
    for gradient in [&da, &db] {
        check::dtype(
            "mean_squared_error",
            "a gradient",
            a.dtype(),
            gradient.dtype(),
        )?;
    }
    let params = SpreadParams {
        a: a.ptr(),
        b: b.ptr(),
        db: db.as_view().ptr(),
        a_stride: a.stride() as i64,
        b_stride: b.stride() as i64,
        db_stride: db.stride() as i64,
        factor: 2.0 * factor,
        ..spread_params(dy, &da)
    };
    launch_spread("reduce_squared_error_backward", &params, &da)
}

fn spread_params(dy: View<'_>, da: &ViewMut<'_>) -> SpreadParams {
    SpreadParams {
        dy: dy.ptr(),
        dy_step: i64::from(dy.rows() * dy.cols() > 1),
        a: DevicePtr::NULL,
        b: DevicePtr::NULL,
        da: da.as_view().ptr(),
        db: DevicePtr::NULL,
        a_stride: 0,
        b_stride: 0,
        da_stride: da.stride() as i64,
        db_stride: 0,
        rows: da.rows() as i64,
        cols: da.cols() as i64,
        factor: 1.0,
    }
}

fn launch_spread(entry: &'static str, params: &SpreadParams, da: &ViewMut<'_>) -> Result<()> {
    let kernel = program(da.device(), entry, da.dtype(), 1)?;
    let grid = (da.rows() * da.cols())
        .div_ceil(BLOCK as usize)
        .min(1 << 20);
    // SAFETY: the parameters are the kernel's; the views are valid for their sizes, gradients borrowed uniquely.
    unsafe { kernel.launch([grid as u32, 1, 1], BLOCK, 0, params) }
}

fn program(device: Device, entry: &'static str, dtype: DType, warps: u32) -> Result<Kernel> {
    let warps = if warps == 1 { "1" } else { "8" };
    let defines = [("IO", dtype.cuda_name()), ("WARPS", warps)];
    kernel(device, &SOURCE, entry, &defines)
}
