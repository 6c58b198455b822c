//! Learnt absolute positions: a row of a table for each position, added to the rows of the sequences.
//!
//! y\[b, t\] = x\[b, t\] + table\[from + t − s\], s the row that the sequence of row t begins with.
//!
//! - x, y: (batch, length, width) f32; table: (positions, width) f32 or, where it needs no gradient, bf16.
//! - `from`: the position of the first row of each sequence. A sequence in chunks, each from where the one before it
//!   ended, is the same as the whole.
//! - `starts`: where packed sequences start, each at position 0; every row of x begins with one.
//! - Gradients: dx = dy; dtable\[p\] = Σ dy over the rows at position p, in order. Of packed sequences on a GPU it is
//!   that of an embedding whose ids are the positions.
//!
//! Source: J. Gehring et al., "Convolutional Sequence to Sequence Learning", arXiv 1705.03122.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{BackwardContext, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var, View, ViewMut, bf16};

use crate::record::record;
use crate::{Starts, check, embedding};

const OP: &str = "positions";

/// Which positions [`positions`] takes the rows of its input for.
#[derive(Clone, Copy, Debug, Default)]
pub struct PositionsOptions<'a> {
    /// The position of each sequence's first row.
    pub from: usize,
    /// Where packed sequences start; only where `from` is 0.
    pub starts: Option<&'a Starts>,
}

/// x with the table's row of its position added to each row; see the head of this module.
///
/// # Shapes
/// x (batch, length, width), table (positions, width) → (batch, length, width)
///
/// # Errors
/// Shapes, types or devices that do not fit; [`Error::Range`] where a sequence is longer than the table;
/// [`Error::Surplus`] for packed sequences that are to begin elsewhere than at 0; [`Error::NoGradient`] where a tape
/// tracks a table of bf16.
pub fn positions(x: &Var, table: &Var, options: &PositionsOptions<'_>) -> Result<Var> {
    let [batch, length, width] = x.shape().axes(OP, "x", "(batch, length, width)")?;
    let [count, _] = table.shape().axes(OP, "table", "(positions, width)")?;
    check::shape(OP, "table", &[count, width], table)?;
    let device = x.device();
    check::device(OP, "table", device, table.device())?;
    check::dtype(OP, "x", DType::F32, x.dtype())?;
    check::float(OP, "table", table.dtype())?;
    // Beside a table that is not learnt x may well need its gradient.
    if table.dtype() != DType::F32 && tracked(&[Some(&table.clone().on(x))]) {
        return Err(Error::NoGradient { op: OP });
    }
    check::int(OP, "the rows of x", batch * length)?;
    check::int(OP, "the rows of the table", count)?;
    let places = Places::new(options, [batch, length], count, device)?;
    let mut y = Tensor::empty(x.shape(), DType::F32, device)?;
    let rows = table.tensor()?.view();
    match (device, table.dtype()) {
        (Device::Cuda(_), _) => cuda::forward(x.view(), rows, &places, y.view_mut()?)?,
        (Device::Cpu, DType::BF16) => {
            let rows = rows.mat_of::<bf16>()?;
            cpu::forward(x.mat()?, rows, &places.of_rows()?, y.mat_mut()?);
        }
        (Device::Cpu, _) => {
            cpu::forward(x.mat()?, rows.mat()?, &places.of_rows()?, y.mat_mut()?);
        }
    }
    record(OP, &[Some(x), Some(table)], y, || places, backward)
}

/// Where the rows of sequences stand.
#[derive(Clone, Debug)]
pub struct Places {
    /// Number of sequences, or of rows of packed ones.
    pub batch: usize,
    /// Rows of each.
    pub length: usize,
    /// The position of the first.
    pub from: usize,
    /// Of packed sequences the position of every row: (batch · length) of u32. Others the kernels count themselves, so
    /// that nothing is brought to a GPU while a graph is recorded there.
    pub packed: Option<Tensor>,
}

impl Places {
    /// Those that a table of `count` rows has to have.
    fn new(
        options: &PositionsOptions<'_>,
        [batch, length]: [usize; 2],
        count: usize,
        device: Device,
    ) -> Result<Self> {
        let from = options.from;
        let mut end = from.saturating_add(length);
        let mut packed = None;
        if let Some(starts) = options.starts {
            if from > 0 {
                let what = "a first position beside packed sequences";
                return Err(Error::Surplus { op: OP, what });
            }
            let mut place = 0;
            let flags = starts.flags(OP, batch, length, false)?.into_iter();
            let places = flags.enumerate().map(|(row, starts)| {
                let begins = starts || row % length == 0;
                place = if begins { 0 } else { place + 1 };
                place
            });
            let places: Vec<u32> = places.collect();
            end = places.iter().max().map_or(0, |&last| last as usize + 1);
            packed = Some(Tensor::from_slice([places.len()], &places, device)?);
        }
        if let Some(last) = end.checked_sub(1) {
            check::range(OP, "the last position", 0..count, last)?;
        }
        Ok(Self {
            batch,
            length,
            from,
            packed,
        })
    }

    /// The position of every row.
    fn of_rows(&self) -> Result<Vec<u32>> {
        if let Some(packed) = &self.packed {
            return packed.to_vec();
        }
        let sequence = (self.from..self.from + self.length).map(|place| place as u32);
        Ok((0..self.batch).flat_map(|_| sequence.clone()).collect())
    }
}

/// dx = dy, and dtable\[p\] += Σ dy over the rows at position p.
fn backward(places: Places, dy: Tensor, context: &mut BackwardContext<'_, '_>) -> Result<()> {
    if let Some((dtable, accumulate)) = context.accumulator(1)? {
        match (dy.device(), &places.packed) {
            (Device::Cpu, _) => {
                cpu::backward(dy.mat()?, &places.of_rows()?, dtable.mat()?, accumulate);
            }
            (Device::Cuda(_), None) => cuda::backward(dy.view(), &places, dtable, accumulate)?,
            (Device::Cuda(_), Some(ids)) => {
                embedding::cuda::backward(ids.view(), dy.view(), dtable, accumulate)?;
            }
        }
    }
    context.add(0, dy)
}

/// h\[s\] += table\[read\[s\]\], then read\[s\] += 1: the next position of each of many sequences, in place and without
/// a tape. Nothing is added at a position that the table does not have.
///
/// # Shapes
/// h (S, width) of f32, table (positions, width) of f32 or bf16, read (1, S) of u32
///
/// # Errors
/// Shapes, types or devices that do not fit.
pub fn step(h: ViewMut<'_>, table: View<'_>, read: ViewMut<'_>) -> Result<()> {
    let ([slots, width], device) = ([h.rows(), h.cols()], h.device());
    check::view(OP, "h", [slots, width], (DType::F32, device), &h.as_view())?;
    let counts = (DType::U32, device);
    check::view(OP, "read", [1, slots], counts, &read.as_view())?;
    check::float(OP, "table", table.dtype())?;
    let stored = (table.dtype(), device);
    check::view(OP, "table", [table.rows(), width], stored, &table)?;
    if device != Device::Cpu {
        return cuda::step(h, table, read);
    }
    let (h, read) = (h.mat()?, read.mat_of()?.into_slice());
    match table.dtype() {
        DType::BF16 => cpu::step(h, table.mat_of::<bf16>()?, read),
        _ => cpu::step(h, table.mat()?, read),
    }
    Ok(())
}
