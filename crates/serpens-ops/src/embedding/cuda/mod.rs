//! Embedding on a GPU: rows gathered by id; for the gradient the positions sorted by id, and the rows of each run
//! summed in order.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Error, Result, Tensor, View, ViewMut, kernel_params};

use super::OP;
use crate::check;

mod step;

pub use step::step;

static SOURCE: Source = Source::new("embedding", include_str!("kernel.cu")).params(&[
    GatherParams::declare,
    SortParams::declare,
    RunSumParams::declare,
    ClearParams::declare,
]);

/// Threads of a block at most.
const BLOCK: usize = 256;
/// Ids that a block sorts, as in the kernels.
const TILE: usize = 2048;
/// Values of a digit.
const DIGITS: usize = 256;
/// Rows that a block sums, at least.
const SEGMENT: usize = 32;
/// Segments at most: longer ones follow from more positions.
const SEGMENTS: usize = 1024;

kernel_params! {
    struct GatherParams {
        ids: DevicePtr as "const u32*", // (rows)
        table: DevicePtr as "const DY*", // (vocabulary, width)
        y: DevicePtr as "float*", // (rows, width)
        rows: i64,
        width: i64,
        vocabulary: u32,
    }

    struct SortParams {
        keys: DevicePtr as "const u32*", // (count)
        positions: DevicePtr as "const u32*", // (count); null: 0, 1, 2, …
        sorted_keys: DevicePtr as "u32*", // (count)
        sorted_positions: DevicePtr as "u32*", // (count)
        counts: DevicePtr as "u32*", // (tiles, DIGITS)
        count: u32,
        vocabulary: u32, // all ids beyond it are taken for it
        shift: u32, // of the digit
    }

    struct RunSumParams {
        keys: DevicePtr as "const u32*", // (count), sorted
        positions: DevicePtr as "const u32*", // (count)
        dy: DevicePtr as "const DY*", // (count, width)
        dtable: DevicePtr as "float*", // (vocabulary, width)
        // (segments, 2, width): of a run from the segment before; of one that goes on in the next
        sums: DevicePtr as "float*",
        width: i64,
        count: u32,
        segment: u32,
        vocabulary: u32,
        accumulate: u32,
    }

    struct ClearParams {
        values: DevicePtr as "float*",
        count: i64,
    }
}

/// y\[i\] = table\[ids\[i\]\]; a row of NaN for an id outside the table.
pub fn forward(ids: View<'_>, table: View<'_>, y: ViewMut<'_>) -> Result<()> {
    check::float(OP, "table", table.dtype())?;
    let (_, vocabulary) = check_sizes(&ids, table.rows())?;
    if y.rows() > 0 {
        check::range(OP, "the vocabulary", 1..usize::MAX, table.rows())?;
    }
    let params = GatherParams {
        ids: ids.ptr(),
        table: table.ptr(),
        y: y.ptr(),
        rows: y.rows() as i64,
        width: y.cols() as i64,
        vocabulary,
    };
    let aligned = table.aligned(4 * table.dtype().size()) && y.aligned(16);
    let vector = vector(y.cols(), aligned);
    let kernel = program(y.device(), "embedding_gather", table.dtype(), vector)?;
    let grid = [y.rows().div_ceil(8) as u32, 1, 1];
    // SAFETY: the parameters are the kernel's; table and y are without gaps, the sizes the views'.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}

/// dtable\[ids\[i\]\] += dy\[i\] for every i in order; `dtable` is set to zero first unless `accumulate`.
pub fn backward(
    ids: View<'_>,
    dy: View<'_>,
    mut dtable: ViewMut<'_>,
    accumulate: bool,
) -> Result<()> {
    check::float(OP, "dy", dy.dtype())?;
    check::dtype(OP, "the table's gradient", DType::F32, dtable.dtype())?;
    let (count, vocabulary) = check_sizes(&ids, dtable.rows())?;
    let vector = vector(
        dtable.cols(),
        dy.aligned(4 * dy.dtype().size()) && dtable.aligned(16),
    );
    if !accumulate {
        clear(dtable.reborrow(), vector)?;
    }
    if count == 0 || vocabulary == 0 || dtable.cols() == 0 {
        return Ok(());
    }
    let sorted = Sorted::new(ids, count, vocabulary)?;
    sum(&sorted, dy, dtable, vector, accumulate)
}

/// Positions in the order of their ids.
struct Sorted {
    ids: Tensor,
    positions: Tensor,
}

impl Sorted {
    /// A stable sort in digits of eight bits, the lowest first.
    fn new(ids: View<'_>, count: u32, vocabulary: u32) -> Result<Self> {
        let device = ids.device();
        let words = |words: usize| Tensor::empty([words], DType::U32, device);
        let tiles = (count as usize).div_ceil(TILE);
        let mut counts = words(tiles * DIGITS)?;
        let counts = counts.view_mut()?.ptr();
        let pair = || Ok::<_, Error>([words(count as usize)?, words(count as usize)?]);
        let (mut sorted, mut other) = (pair()?, pair()?);
        let (mut keys, mut positions) = (ids.ptr(), DevicePtr::NULL);
        // Ids outside the table are sorted as the vocabulary's size.
        for shift in (0..u32::BITS - vocabulary.leading_zeros()).step_by(8) {
            std::mem::swap(&mut sorted, &mut other);
            let [sorted_keys, sorted_positions] = &mut sorted;
            let params = SortParams {
                keys,
                positions,
                sorted_keys: sorted_keys.view_mut()?.ptr(),
                sorted_positions: sorted_positions.view_mut()?.ptr(),
                counts,
                count,
                vocabulary,
                shift,
            };
            for entry in ["embedding_count", "embedding_place"] {
                let kernel = program(device, entry, DType::F32, 4)?;
                // SAFETY: the parameters are the kernel's; there is a row of counts for every tile, and a place for
                // every id.
                unsafe { kernel.launch([tiles as u32, 1, 1], BLOCK as u32, 0, &params)? };
            }
            (keys, positions) = (params.sorted_keys, params.sorted_positions);
        }
        let [ids, positions] = sorted;
        Ok(Self { ids, positions })
    }
}

/// Adds the rows of each run of equal ids to their row of the table.
fn sum(
    sorted: &Sorted,
    dy: View<'_>,
    dtable: ViewMut<'_>,
    vector: usize,
    accumulate: bool,
) -> Result<()> {
    let (count, width) = (sorted.ids.len(), dtable.cols());
    let segment = count.div_ceil(SEGMENTS).next_power_of_two().max(SEGMENT);
    let segments = count.div_ceil(segment);
    let mut sums = Tensor::empty([segments, 2, width], DType::F32, dy.device())?;
    let params = RunSumParams {
        keys: sorted.ids.view().ptr(),
        positions: sorted.positions.view().ptr(),
        dy: dy.ptr(),
        dtable: dtable.ptr(),
        sums: sums.view_mut()?.ptr(),
        width: width as i64,
        count: count as u32,
        segment: segment as u32,
        vocabulary: dtable.rows() as u32,
        accumulate: accumulate.into(),
    };
    let threads = width.div_ceil(vector);
    let block = threads.next_multiple_of(32).min(BLOCK);
    let grid = [segments as u32, threads.div_ceil(block) as u32, 1];
    for entry in ["embedding_sum", "embedding_fold"] {
        let kernel = program(dy.device(), entry, dy.dtype(), vector)?;
        // SAFETY: the parameters are the kernel's; dy has a row for each position, `sums` two for each segment.
        unsafe { kernel.launch(grid, block as u32, 0, &params)? };
    }
    Ok(())
}

fn clear(values: ViewMut<'_>, vector: usize) -> Result<()> {
    let count = values.rows() * values.cols();
    let params = ClearParams {
        values: values.ptr(),
        count: count as i64,
    };
    let kernel = program(values.device(), "embedding_clear", DType::F32, vector)?;
    let grid = [count.div_ceil(BLOCK * vector) as u32, 1, 1];
    // SAFETY: the parameters are the kernel's; the values are without gaps, a multiple of `vector` in number.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}

/// Values of an access to rows of this width.
fn vector(width: usize, aligned: bool) -> usize {
    if aligned && width.is_multiple_of(4) {
        4
    } else {
        1
    }
}

/// The number of ids and the size of the vocabulary, as the kernels count them.
fn check_sizes(ids: &View<'_>, vocabulary: usize) -> Result<(u32, u32)> {
    check::dtype(OP, "ids", DType::U32, ids.dtype())?;
    let (count, most) = (ids.rows() * ids.cols(), u32::MAX as usize - 2 * TILE);
    check::range(OP, "the number of ids", 0..most, count)?;
    check::range(OP, "the vocabulary", 0..1 << 32, vocabulary)?;
    Ok((count as u32, vocabulary as u32))
}

fn program(device: Device, entry: &'static str, dy: DType, vector: usize) -> Result<Kernel> {
    let defines = [
        ("DY", dy.cuda_name()),
        ("VEC", if vector == 4 { "4" } else { "1" }),
    ];
    kernel(device, &SOURCE, entry, &defines)
}
