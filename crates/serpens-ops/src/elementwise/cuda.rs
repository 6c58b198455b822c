//! Elementwise functions on a GPU.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Error, Result, Shape, Tensor, View, ViewMut, kernel_params};

use super::scalars::Scalars;
use crate::check;
use crate::shared::tasks::reduction_block;

static SOURCE: Source = Source::new("elementwise", include_str!("kernel.cu"))
    .params(&[ElementwiseParams::declare, RowSumParams::declare]);

/// Threads of a block.
const BLOCK: usize = 256;
/// Threads of a block along a row when rows are summed.
const LANES: usize = 32;
/// The most blocks along the second axis of a grid.
const MAX_GRID_Y: usize = 65_535;

kernel_params! {
    struct MatrixParams {
        data: DevicePtr,
        stride: i64, // between rows, in values; 0 repeats one row
    }

    struct ElementwiseParams {
        x: [MatrixParams; 3],
        y: [MatrixParams; 2],
        rows: i64,
        cols: i64,
        scalars: Scalars,
        lanes_log2: u32, // threads of a block along a row
    }

    struct RowSumParams {
        x: DevicePtr as "const IO*", // (rows, cols)
        stride: i64,
        rows: i64,
        cols: i64,
        partials: DevicePtr as "float*", // (blocks, cols)
        out: DevicePtr as "TO*", // (cols)
        block_rows: i64, // rows of a block
        blocks: u32,
        accumulate: u32,
    }
}

/// Runs the kernel `elementwise_NAME`, by its whole name, on matrices of one shape, type and device, but that the last
/// input has the type `last`.
pub(super) fn map<const I: usize, const O: usize>(
    entry: &'static str,
    x: [View<'_>; I],
    last: DType,
    y: [ViewMut<'_>; O],
    scalars: Scalars,
) -> Result<()> {
    let dtype = y[0].dtype();
    check::float(entry, "an operand", dtype)?;
    let is = |expected, view: View<'_>| check::dtype(entry, "an operand", expected, view.dtype());
    for (i, view) in x.iter().enumerate() {
        is(if i + 1 == I { last } else { dtype }, *view)?;
    }
    for view in &y {
        is(dtype, view.as_view())?;
    }
    launch(entry, dtype, x, y, scalars)
}

/// y = x in the type of y; where x has one row and y many, that row for each.
pub(super) fn convert(x: View<'_>, y: ViewMut<'_>) -> Result<()> {
    let entry = "elementwise_convert";
    check::float(entry, "x", x.dtype())?;
    check::float(entry, "y", y.dtype())?;
    launch(entry, y.dtype(), [x], [y], Scalars::default())
}

fn launch<const I: usize, const O: usize>(
    entry: &'static str,
    to: DType,
    x: [View<'_>; I],
    y: [ViewMut<'_>; O],
    scalars: Scalars,
) -> Result<()> {
    let (rows, cols, device) = (y[0].rows(), y[0].cols(), y[0].device());
    let outputs = y.each_ref().map(ViewMut::as_view);
    for view in x.iter().chain(&outputs) {
        check::device(entry, "an operand", device, view.device())?;
        let repeated = I == 1 && view.rows() == 1;
        if view.cols() != cols || (view.rows() != rows && !repeated) {
            let expected = Shape::new(&[rows, cols]).to_string();
            let got = Shape::new(&[view.rows(), view.cols()]);
            return Err(Error::shape(entry, "an operand", expected, got));
        }
    }
    let from = x[0].dtype();
    let mut params = ElementwiseParams {
        x: places(&x, rows),
        y: places(&outputs, rows),
        rows: rows as i64,
        cols: cols as i64,
        scalars,
        lanes_log2: 0,
    };
    // Without gaps between them, all rows are one long row: narrow matrices then use whole vectors too.
    let mut operands = params.x[..I].iter().chain(&params.y[..O]);
    if operands.all(|matrix| matrix.stride == params.cols) {
        params.cols *= params.rows;
        params.rows = 1;
    }
    let vector = vector(&params, x.iter().chain(&outputs));
    let vectors = (params.cols as usize).div_ceil(vector);
    params.lanes_log2 = vectors.next_power_of_two().min(BLOCK).ilog2();
    let lanes = 1 << params.lanes_log2;
    let row_blocks = (params.rows as usize).div_ceil(BLOCK / lanes);
    let grid = [
        vectors.div_ceil(lanes) as u32,
        row_blocks.min(MAX_GRID_Y) as u32,
        1,
    ];
    let kernel = program(device, entry, from, to, vector)?;
    // SAFETY: the parameters are the kernel's; the views are valid for their sizes, outputs borrowed uniquely.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}

/// Where the matrices are; one of a single row is that row for all `rows`.
fn places<const K: usize>(views: &[View<'_>], rows: usize) -> [MatrixParams; K] {
    let mut matrices = [MatrixParams {
        data: DevicePtr::NULL,
        stride: 0,
    }; K];
    for (matrix, view) in matrices.iter_mut().zip(views) {
        matrix.data = view.ptr();
        matrix.stride = match view.rows() == rows {
            true => view.stride() as i64,
            false => 0,
        };
    }
    matrices
}

/// Values of an access: 16 bytes of the widest type, where all rows are aligned to that.
fn vector<'v>(
    params: &ElementwiseParams,
    mut views: impl Iterator<Item = &'v View<'v>> + Clone,
) -> usize {
    let widest = views.clone().map(|view| view.dtype().size()).max();
    let wide = 16 / widest.unwrap_or(4);
    let aligned = |view: &View<'_>| {
        let size = view.dtype().size();
        let row = if params.rows == 1 { 0 } else { view.stride() };
        view.ptr().0.is_multiple_of((wide * size) as u64) && row.is_multiple_of(wide)
    };
    if views.all(aligned) { wide } else { 1 }
}

/// out\[c\] = Σ_r x\[r, c\], added to `out` where `accumulate`: blocks of rows first, then the blocks in order.
pub(crate) fn sum_rows(x: View<'_>, mut out: ViewMut<'_>, accumulate: bool) -> Result<()> {
    const OP: &str = "sum_rows";
    check::float(OP, "x", x.dtype())?;
    check::float(OP, "the sums", out.dtype())?;
    check::device(OP, "x", out.device(), x.device())?;
    let (rows, cols) = (x.rows(), x.cols());
    check::count(OP, "sums", cols, out.rows() * out.cols())?;
    let block_rows = reduction_block(rows);
    let blocks = rows.div_ceil(block_rows);
    let mut partials = Tensor::empty([blocks, cols], DType::F32, x.device())?;
    let params = RowSumParams {
        x: x.ptr(),
        stride: x.stride() as i64,
        rows: rows as i64,
        cols: cols as i64,
        partials: partials.view_mut()?.ptr(),
        out: out.reborrow().ptr(),
        block_rows: block_rows as i64,
        blocks: blocks as u32,
        accumulate: accumulate.into(),
    };
    let wide = 16 / x.dtype().size();
    let vector = if x.aligned(16) && cols.is_multiple_of(wide) {
        wide
    } else {
        1
    };
    let program = |entry| program(x.device(), entry, x.dtype(), out.dtype(), vector);
    let grid = [cols.div_ceil(LANES * vector) as u32, blocks as u32, 1];
    // SAFETY: the parameters are the kernels'; there is a row of partial sums for every block.
    unsafe {
        program("elementwise_sum_block")?.launch(grid, BLOCK as u32, 0, &params)?;
        let grid = [cols.div_ceil(BLOCK) as u32, 1, 1];
        program("elementwise_sum_fold")?.launch(grid, BLOCK as u32, 0, &params)
    }
}

fn program(
    device: Device,
    entry: &'static str,
    from: DType,
    to: DType,
    vector: usize,
) -> Result<Kernel> {
    let vector = match vector {
        8 => "8",
        4 => "4",
        _ => "1",
    };
    let defines = [
        ("IO", from.cuda_name()),
        ("TO", to.cuda_name()),
        ("VEC", vector),
    ];
    kernel(device, &SOURCE, entry, &defines)
}
