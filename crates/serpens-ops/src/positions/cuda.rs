//! Positions on a GPU.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, View, ViewMut, kernel_params};

use super::{OP, Places};
use crate::check;

static SOURCE: Source = Source::new("positions", include_str!("kernel.cu")).params(&[
    PositionsParams::declare,
    PositionsGradientParams::declare,
    PositionsStepParams::declare,
]);

/// Threads of a block at most.
const THREADS: usize = 256;

kernel_params! {
    struct PositionsParams {
        x: DevicePtr as "const float*", // (rows, width)
        table: DevicePtr as "const TABLE*", // (positions, width)
        places: DevicePtr as "const u32*", // (rows), or null: counted
        y: DevicePtr as "float*", // (rows, width)
        x_stride: i64,
        table_stride: i64,
        y_stride: i64,
        width: i64,
        length: u32, // rows of a sequence
        from: u32, // the position of its first
    }

    struct PositionsGradientParams {
        dy: DevicePtr as "const float*", // (batch, length, width)
        dtable: DevicePtr as "float*", // (positions, width)
        dy_stride: i64,
        dtable_stride: i64,
        width: i64,
        batch: u32,
        length: u32,
        from: u32,
        accumulate: u32,
    }

    struct PositionsStepParams {
        h: DevicePtr as "float*", // (slots, width)
        table: DevicePtr as "const TABLE*", // (positions, width)
        read: DevicePtr as "u32*", // (slots)
        h_stride: i64,
        table_stride: i64,
        width: i64,
        positions: u32,
    }
}

/// y = x + the row of the table that each row's place names, all of which it has.
///
/// # Errors
/// Operands of other types or on different devices; whatever the device fails with.
pub fn forward(x: View<'_>, table: View<'_>, places: &Places, y: ViewMut<'_>) -> Result<()> {
    let (device, dtype) = (x.device(), table.dtype());
    check::float(OP, "table", dtype)?;
    let told = places.packed.as_ref().map(|packed| packed.view());
    let told = told.map(|told| check::address(OP, "places", &told, DType::U32, device));
    let params = PositionsParams {
        x: check::address(OP, "x", &x, DType::F32, device)?,
        table: check::address(OP, "table", &table, dtype, device)?,
        places: told.transpose()?.unwrap_or(DevicePtr::NULL),
        y: check::address(OP, "y", &y.as_view(), DType::F32, device)?,
        x_stride: x.stride() as i64,
        table_stride: table.stride() as i64,
        y_stride: y.stride() as i64,
        width: x.cols() as i64,
        length: check::int(OP, "the rows of a sequence", places.length)? as u32,
        from: check::int(OP, "the first position", places.from)? as u32,
    };
    let vec = vector(&[x, table, y.as_view()]);
    let kernel = program(device, "positions", dtype, vec)?;
    let rows = check::int(OP, "the rows of x", x.rows())? as u32;
    let (grid, block) = spread(rows, x.cols(), vec);
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to, and that the
    // table has the places.
    unsafe { kernel.launch(grid, block, 0, &params) }
}

/// dtable\[p\] += Σ dy over the rows at p, in order, of sequences that are not packed; `dtable` is set to zero first
/// unless `accumulate`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dy: View<'_>,
    places: &Places,
    dtable: ViewMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let device = dy.device();
    let params = PositionsGradientParams {
        dy: check::address(OP, "dy", &dy, DType::F32, device)?,
        dtable: check::address(OP, "dtable", &dtable.as_view(), DType::F32, device)?,
        dy_stride: dy.stride() as i64,
        dtable_stride: dtable.stride() as i64,
        width: dy.cols() as i64,
        batch: check::int(OP, "the sequences", places.batch)? as u32,
        length: check::int(OP, "the rows of a sequence", places.length)? as u32,
        from: check::int(OP, "the first position", places.from)? as u32,
        accumulate: accumulate.into(),
    };
    let vec = vector(&[dy, dtable.as_view()]);
    let kernel = program(device, "positions_gradient", DType::F32, vec)?;
    let rows = check::int(OP, "the rows of the table", dtable.rows())? as u32;
    let (grid, block) = spread(rows, dy.cols(), vec);
    // SAFETY: as in `forward`; the gradient has a row for each position, as the grid has blocks.
    unsafe { kernel.launch(grid, block, 0, &params) }
}

/// h\[s\] += table\[read\[s\]\], if there is such a row, and read\[s\] += 1, up to the largest number that there is.
///
/// # Errors
/// As [`forward`].
pub fn step(h: ViewMut<'_>, table: View<'_>, read: ViewMut<'_>) -> Result<()> {
    let (device, dtype) = (h.device(), table.dtype());
    check::float(OP, "table", dtype)?;
    let params = PositionsStepParams {
        h: check::address(OP, "h", &h.as_view(), DType::F32, device)?,
        table: check::address(OP, "table", &table, dtype, device)?,
        read: check::address(OP, "read", &read.as_view(), DType::U32, device)?,
        h_stride: h.stride() as i64,
        table_stride: table.stride() as i64,
        width: h.cols() as i64,
        positions: check::int(OP, "the rows of the table", table.rows())? as u32,
    };
    let kernel = program(
        device,
        "positions_step",
        dtype,
        vector(&[h.as_view(), table]),
    )?;
    let slots = check::int(OP, "the number of slots", h.rows())? as u32;
    // SAFETY: as in `forward`, with a count for each slot; the kernel waits for those before it.
    unsafe { kernel.launch_early([slots, 1, 1], THREADS as u32, 0, &params) }
}

/// Values of an access to rows of these.
fn vector(views: &[View<'_>]) -> usize {
    let wide = check::accessible(views, views[0].cols(), 4);
    if wide { 4 } else { 1 }
}

/// A thread for each `vec` columns of each row: a row has the blocks of one x.
fn spread(rows: u32, width: usize, vec: usize) -> ([u32; 3], u32) {
    let threads = width.div_ceil(vec);
    let block = threads.next_multiple_of(32).clamp(32, THREADS);
    ([rows, threads.div_ceil(block) as u32, 1], block as u32)
}

fn program(device: Device, entry: &'static str, table: DType, vec: usize) -> Result<Kernel> {
    let defines = [
        ("TABLE", table.cuda_name()),
        ("VEC", if vec == 4 { "4" } else { "1" }),
    ];
    kernel(device, &SOURCE, entry, &defines)
}
