//! Heads by factors and offsets on a GPU.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::OP;
use crate::{check, fold};

static SOURCE: Source = Source::new("offset_scale", include_str!("kernel.cu"))
    .params(&[
        OffsetScaleParams::declare,
        OffsetScaleBackwardParams::declare,
    ])
    .constants(&[("BLOCK", BLOCK as i32)]);

/// Threads of a block.
const BLOCK: usize = 256;
/// Threads of a block that share a row of dy, and rows at work in it, where rows are summed.
const LANES: usize = 32;
const TURNS: usize = BLOCK / LANES;
/// Partial sums of a column at most.
const PARTIALS: usize = 256;

kernel_params! {
    struct OffsetScaleParams {
        x: DevicePtr as "const IO*", // (rows, cols)
        scale: DevicePtr as "const float*", // (width)
        offset: DevicePtr as "const float*", // (width)
        y: DevicePtr as "IO*", // (rows, width)
        x_stride: i64,
        rows: i64,
        cols: i64,
        width: i64, // heads · cols
        lanes: i32, // threads that share a row of x
    }

    struct OffsetScaleBackwardParams {
        dy: DevicePtr as "const IO*", // (rows, width)
        x: DevicePtr as "const IO*", // (rows, cols)
        scale: DevicePtr as "const float*", // (width)
        dx: DevicePtr as "IO*", // (rows, cols)
        partials: DevicePtr as "float*", // (blocks of rows, 2, width): dscale, doffset
        x_stride: i64,
        dx_stride: i64,
        rows: i64,
        cols: i64,
        width: i64,
        lanes: i32,
    }
}

/// y\[r, h·s + i\] = x\[r, i\] · scale\[h·s + i\] + offset\[h·s + i\]; y without gaps between its rows.
///
/// # Errors
/// Operands of other types or on different devices; whatever the device fails with.
pub fn forward(x: View<'_>, scale: View<'_>, offset: View<'_>, y: ViewMut<'_>) -> Result<()> {
    let (device, io) = (x.device(), x.dtype());
    check::float(OP, "x", io)?;
    let vec = vector(&[x, scale, offset, y.as_view()], x.cols());
    let (grid, lanes) = spread(&x, vec)?;
    let params = OffsetScaleParams {
        x: x.ptr(),
        scale: check::address(OP, "scale", &scale, DType::F32, device)?,
        offset: check::address(OP, "offset", &offset, DType::F32, device)?,
        y: check::address(OP, "y", &y.as_view(), io, device)?,
        x_stride: x.stride() as i64,
        rows: x.rows() as i64,
        cols: x.cols() as i64,
        width: y.cols() as i64,
        lanes,
    };
    let kernel = program(device, "offset_scale", io, vec)?;
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}

/// Where [`backward`] writes, all overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// (rows, s) in the type of x.
    pub dx: ViewMut<'a>,
    /// (heads · s) in f32.
    pub dscale: ViewMut<'a>,
    /// The same.
    pub doffset: ViewMut<'a>,
}

/// dx\[r, i\] = Σ_h scale\[h·s + i\] · dy\[r, h·s + i\], dscale\[j\] = Σ_r dy\[r, j\] · x\[r, j mod s\],
/// doffset\[j\] = Σ_r dy\[r, j\]; dy without gaps between its rows.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dy: View<'_>,
    x: View<'_>,
    scale: View<'_>,
    gradients: Gradients<'_>,
) -> Result<()> {
    let Gradients {
        dx,
        dscale,
        doffset,
    } = gradients;
    let (device, io, width) = (x.device(), x.dtype(), dy.cols());
    check::float(OP, "x", io)?;
    let blocks = x.rows().div_ceil(4 * TURNS).clamp(1, PARTIALS);
    let mut partials = Tensor::empty([blocks, 2 * width], DType::F32, device)?;
    let sums = partials.view_mut()?;
    let vec = vector(&[dy, x, scale, dx.as_view(), sums.as_view()], x.cols());
    let (grid, lanes) = spread(&x, vec)?;
    let params = OffsetScaleBackwardParams {
        dy: check::address(OP, "dy", &dy, io, device)?,
        x: x.ptr(),
        scale: check::address(OP, "scale", &scale, DType::F32, device)?,
        dx: check::address(OP, "dx", &dx.as_view(), io, device)?,
        partials: sums.ptr(),
        x_stride: x.stride() as i64,
        dx_stride: dx.stride() as i64,
        rows: x.rows() as i64,
        cols: x.cols() as i64,
        width: width as i64,
        lanes,
    };
    let tiles = [width.div_ceil(LANES * vec) as u32, blocks as u32, 1];
    let program = |entry| program(device, entry, io, vec);
    // SAFETY: as in `forward`; there is a row of partial sums for every block of rows.
    unsafe {
        program("offset_scale_rows")?.launch(grid, BLOCK as u32, 0, &params)?;
        program("offset_scale_sums")?.launch(tiles, BLOCK as u32, 0, &params)?;
    }
    fold::fold(&partials, width, dscale, Some(doffset))
}

/// Values of an access, where heads of `cols` columns begin.
fn vector(views: &[View<'_>], cols: usize) -> usize {
    let wide = check::accessible(views, cols, 4);
    if wide { 4 } else { 1 }
}

/// The blocks for rows like those of x with a thread for each `vec` columns, and the threads that share a row.
fn spread(x: &View<'_>, vec: usize) -> Result<([u32; 3], i32)> {
    let threads = x.cols().div_ceil(vec);
    let lanes = threads.next_power_of_two().min(BLOCK);
    let rows = check::int(OP, "the rows of x", x.rows())? as usize;
    let grid = [rows.div_ceil(BLOCK / lanes), threads.div_ceil(lanes), 1];
    Ok((grid.map(|blocks| blocks as u32), lanes as i32))
}

fn program(device: Device, entry: &'static str, io: DType, vec: usize) -> Result<Kernel> {
    let vec = if vec == 4 { "4" } else { "1" };
    let defines = [("IO", io.cuda_name()), ("VEC", vec)];
    kernel(device, &SOURCE, entry, &defines)
}
