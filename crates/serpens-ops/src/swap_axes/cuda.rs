//! Grids read along their columns on a GPU.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::OP;
use crate::check;

static SOURCE: Source = Source::new("swap_axes", include_str!("kernel.cu"))
    .params(&[SwapAxesParams::declare])
    .constants(&[("BLOCK", BLOCK as i32)]);

/// Threads of a block.
const BLOCK: usize = 256;

kernel_params! {
    struct SwapAxesParams {
        x: DevicePtr as "const WORD*", // (count, width)
        y: DevicePtr as "WORD*", // (count, width)
        x_stride: i64, // these three in words
        y_stride: i64,
        width: i64,
        count: u32, // rows of all grids
        rows: u32, // of a grid
        columns: u32,
        lanes: u32, // threads that share a row
    }
}

/// y\[b, c·R + r\] = x\[b, r·C + c\], both (batch · R · C, width) of one type on one device, of whole grids.
///
/// # Errors
/// Operands that differ in these; whatever the device fails with.
pub fn swap_axes(x: View<'_>, [rows, columns]: [usize; 2], y: ViewMut<'_>) -> Result<()> {
    let (device, dtype) = (y.device(), y.dtype());
    let views = [x, y.as_view()];
    check::view(OP, "x", [y.rows(), y.cols()], (dtype, device), &x)?;
    check::multiple(OP, "the number of rows", (rows * columns).max(1), y.rows())?;
    let (word, values) = match dtype.size() {
        size if check::accessible(&views, y.cols(), 16 / size) => ("uint4", 16 / size),
        2 => ("u16", 1),
        _ => ("u32", 1),
    };
    let width = y.cols() / values;
    let lanes = width.next_power_of_two().min(BLOCK);
    let params = SwapAxesParams {
        x: x.ptr(),
        x_stride: (x.stride() / values) as i64,
        y_stride: (y.stride() / values) as i64,
        width: width as i64,
        count: check::int(OP, "the rows of x", y.rows())? as u32,
        rows: rows as u32,
        columns: columns as u32,
        lanes: lanes as u32,
        y: y.ptr(),
    };
    let grid = [x.rows().div_ceil(BLOCK / lanes) as u32, 1, 1];
    let kernel = kernel(device, &SOURCE, "swap_axes", &[("WORD", word)])?;
    // SAFETY: the parameters are the kernel's, of operands that were checked; y is borrowed uniquely.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}
