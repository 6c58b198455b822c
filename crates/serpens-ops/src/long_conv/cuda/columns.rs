//! Launches of the convolution of sequences that no block holds: columns, rows, columns.
//!
//! Channels go in chunks, and chunks and items in rounds, so that the work arrays stay small whatever the batch.

use serpens_core::cuda::{DevicePtr, KernelParams, Source};
use serpens_core::{DType, Result, Tensor, View, ViewMut, kernel_params};

use super::super::OP;
use super::tile::Tile;
use super::{BLOCK_LENGTH, Job, grid};
use crate::check;

static COLUMNS: Source = Source::new(
    "long_conv_columns",
    concat!(include_str!("fft.cuh"), include_str!("columns.cu")),
)
.params(&[ColumnsParams::declare])
.constants(&[("CHUNK", CHUNK as i32)]);
static ROWS: Source = Source::new(
    "long_conv_rows",
    concat!(
        include_str!("fft.cuh"),
        include_str!("convolve.cuh"),
        include_str!("rows.cu")
    ),
)
.params(&[RowsParams::declare])
.constants(&[("CHUNK", CHUNK as i32)])
.may_spill(|_| true);

/// Channels of a chunk, as the kernels have them.
const CHUNK: usize = 32;

/// Bytes of a work array, unless one item of one chunk needs more. Smaller ones, down to what the L2 cache holds, were
/// slower.
const WORK_BYTES: usize = 256 << 20;

/// The longest sequence: rows and columns as long as a block has room for.
const LONGEST: usize = 4096 * BLOCK_LENGTH;

/// How many points the columns and the rows have.
#[derive(Clone, Copy)]
pub(super) struct ColumnsPlan {
    column: usize,
    row: usize,
}

/// The lengths of columns, and the lanes of a block that transforms them.
const WIDTHS: [(usize, usize); 5] = [(16, 256), (64, 64), (256, 16), (1024, 8), (4096, 4)];

impl ColumnsPlan {
    pub(super) fn new(length: usize) -> Result<Self> {
        let points = length.next_power_of_two();
        // Rows of 256 and 512 points are the fastest, columns up to 256 cost the same.
        let column = match points.trailing_zeros() {
            0..14 => 16,
            14..16 => 64,
            16..20 => 256,
            20..22 => 1024,
            _ => 4096,
        };
        let row = points / column;
        check::range(OP, "the length on a GPU", 0..LONGEST + 1, length)?;
        Ok(Self { column, row })
    }

    fn points(self) -> usize {
        self.column * self.row
    }

    fn column_tile(self, job: Job) -> Result<Tile> {
        let width = WIDTHS
            .iter()
            .find(|(column, _)| *column == self.column)
            .map_or(1, |(_, width)| *width);
        Tile::new(job.device, self.column, width, 0)
    }

    fn row_tile(self, job: Job, spectra: usize) -> Result<Tile> {
        Tile::new(job.device, self.row, row_width(self.row), spectra)
    }
}

/// Channels of a block that transforms rows.
fn row_width(row: usize) -> usize {
    match row {
        1024.. => 8192 / row,
        _ => (4096 / row).min(CHUNK),
    }
}

/// The chunks and the items that the work arrays hold at a time.
#[derive(Clone, Copy)]
struct Round {
    first_chunk: usize,
    chunks: usize,
    first_item: usize,
    items: usize,
}

/// A convolution under way.
struct Work {
    job: Job,
    plan: ColumnsPlan,
    /// The most chunks and items of a round.
    chunks: usize,
    items: usize,
}

impl Work {
    fn new(job: Job, plan: ColumnsPlan) -> Self {
        let slots = (WORK_BYTES / (8 * plan.points() * CHUNK)).max(1);
        Self {
            job,
            plan,
            chunks: (slots / job.batch).clamp(1, job.tiles(CHUNK)),
            items: job.batch.min(slots),
        }
    }

    /// A work array of this many slots: (slots, column, row, chunk) of complex values.
    fn array(&self, slots: usize) -> Result<Tensor> {
        let shape = [slots, self.plan.points(), CHUNK, 2];
        Tensor::empty(shape, DType::F32, self.job.device)
    }

    /// Every round over the chunks, as those of their first items, and over the items of each.
    fn rounds(&self) -> impl Iterator<Item = (Round, impl Iterator<Item = Round>)> {
        let (all, batch, chunks, items) = (
            self.job.tiles(CHUNK),
            self.job.batch,
            self.chunks,
            self.items,
        );
        (0..all).step_by(chunks).map(move |first_chunk| {
            let of_chunks = Round {
                first_chunk,
                chunks: chunks.min(all - first_chunk),
                first_item: 0,
                items: 1,
            };
            let of_items = (0..batch).step_by(items).map(move |first_item| Round {
                first_item,
                items: items.min(batch - first_item),
                ..of_chunks
            });
            (of_chunks, of_items)
        })
    }

    /// From sequences to the spectra of their columns.
    fn columns(&self, round: Round, sequences: &View<'_>, work: DevicePtr) -> Result<()> {
        let sides = (sequences.ptr(), sequences.stride(), sequences.dtype());
        self.launch_columns("long_conv_columns", round, sides, work)
    }

    /// Back.
    fn columns_back(&self, round: Round, work: DevicePtr, sequences: &ViewMut<'_>) -> Result<()> {
        let sides = (sequences.ptr(), sequences.stride(), sequences.dtype());
        self.launch_columns("long_conv_columns_back", round, sides, work)
    }

    fn launch_columns(
        &self,
        entry: &'static str,
        round: Round,
        (sequences, stride, dtype): (DevicePtr, usize, DType),
        work: DevicePtr,
    ) -> Result<()> {
        let points = self.plan.points() as f32; // a power of two
        let params = ColumnsParams {
            sequences,
            work,
            stride: stride as i64,
            first_item: round.first_item as i64,
            first_channel: (round.first_chunk * CHUNK) as i32,
            channels: self.job.channels,
            length: self.job.length,
            row: self.plan.row as i32,
            items: round.items as i32,
            scale: 1.0 / points,
            quarter: 0.25 / points,
        };
        let tile = self.plan.column_tile(self.job)?;
        let kernel = tile.kernel(self.job.device, &COLUMNS, entry, Some(dtype))?;
        let blocks = round.chunks * round.items * self.plan.row * CHUNK / tile.width;
        // SAFETY: the parameters are the kernel's; the sequences have the sizes of the job, the work array a slot for
        // every chunk and item of the round.
        unsafe { kernel.launch(grid(blocks), tile.threads(), tile.shared(), &params) }
    }

    /// A kernel on every row of the chunks of a round.
    fn rows(
        &self,
        entry: &'static str,
        round: Round,
        spectra: usize,
        [k, x, dy, sum]: [DevicePtr; 4],
        [correlate, add]: [bool; 2],
    ) -> Result<()> {
        let params = RowsParams {
            k,
            x,
            dy,
            sum,
            column: self.plan.column as i32,
            items: round.items as i32,
            correlate: correlate.into(),
            add: add.into(),
        };
        let tile = self.plan.row_tile(self.job, spectra)?;
        let kernel = tile.kernel(self.job.device, &ROWS, entry, None)?;
        let blocks = round.chunks * self.plan.column * (CHUNK / tile.width);
        // SAFETY: the parameters are the kernel's; the arrays that the kernel uses have a slot for every chunk (and
        // item) of the round.
        unsafe { kernel.launch(grid(blocks), tile.threads(), tile.shared(), &params) }
    }
}

kernel_params! {
    struct ColumnsParams {
        sequences: DevicePtr as "IO*", // (batch, length, channels): what is read, or what is written
        work: DevicePtr as "struct Complex*", // (slots, COLUMN, ROW, CHUNK)
        stride: i64, // of the sequences
        first_item: i64,
        first_channel: i32,
        channels: i32,
        length: i32,
        row: i32,
        items: i32, // of the slots, within a chunk
        scale: f32, // of what is written
        quarter: f32, // 1 / (4 M)
    }

    /// What is not used is null.
    struct RowsParams {
        k: DevicePtr as "const struct Complex*", // (chunks, COLUMN, ROW, CHUNK)
        x: DevicePtr as "struct Complex*", // (chunks, items, COLUMN, ROW, CHUNK)
        dy: DevicePtr as "struct Complex*", // the same, for correlations
        sum: DevicePtr as "struct Complex*", // (chunks, COLUMN, ROW, CHUNK)
        column: i32,
        items: i32,
        correlate: i32,
        add: i32, // to the sum
    }
}

/// y = k * x, or the correlation of x with k.
pub(super) fn convolve(
    job: Job,
    plan: ColumnsPlan,
    x: View<'_>,
    k: View<'_>,
    y: ViewMut<'_>,
    correlate: bool,
) -> Result<()> {
    let work = Work::new(job, plan);
    let mut of_k = work.array(work.chunks)?;
    let mut of_x = work.array(work.chunks * work.items)?;
    let (of_k, of_x) = (of_k.view_mut()?.ptr(), of_x.view_mut()?.ptr());
    let arrays = [of_k, of_x, DevicePtr::NULL, DevicePtr::NULL];
    for (chunks, rounds) in work.rounds() {
        work.columns(chunks, &k, of_k)?;
        for round in rounds {
            work.columns(round, &x, of_x)?;
            work.rows("long_conv_rows", round, 1, arrays, [correlate, false])?;
            work.columns_back(round, of_x, &y)?;
        }
    }
    Ok(())
}

/// dx = the correlation of dy with k, dk = Σ_batch of those of dy with x.
pub(super) fn correlate(
    job: Job,
    plan: ColumnsPlan,
    [x, dy]: [View<'_>; 2],
    k: View<'_>,
    dx: Option<ViewMut<'_>>,
    dk: ViewMut<'_>,
) -> Result<()> {
    let work = Work::new(job, plan);
    let mut of_kernels = [work.array(work.chunks)?, work.array(work.chunks)?];
    let slots = work.chunks * work.items;
    let mut of_items = [work.array(slots)?, work.array(slots)?];
    let [of_k, sum] = addresses(&mut of_kernels)?;
    let [of_x, of_dy] = addresses(&mut of_items)?;
    let arrays = [of_k, of_x, of_dy, sum];
    for (chunks, rounds) in work.rounds() {
        work.columns(chunks, &k, of_k)?;
        for round in rounds {
            work.columns(round, &x, of_x)?;
            work.columns(round, &dy, of_dy)?;
            let add = round.first_item > 0;
            work.rows("long_conv_rows_correlate", round, 2, arrays, [true, add])?;
            if let Some(dx) = &dx {
                work.columns_back(round, of_dy, dx)?;
            }
        }
        work.rows("long_conv_rows_back", chunks, 0, arrays, [false; 2])?;
        work.columns_back(chunks, sum, &dk)?;
    }
    Ok(())
}

fn addresses(arrays: &mut [Tensor; 2]) -> Result<[DevicePtr; 2]> {
    let [a, b] = arrays;
    Ok([a.view_mut()?.ptr(), b.view_mut()?.ptr()])
}
