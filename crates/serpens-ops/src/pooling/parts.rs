//! How the rows of sequences are shared out: each sequence in parts of its own, so that a long one is the work of many.

use std::ops::Range;

use serpens_core::{Device, Result, Tensor, View};

use super::OP;
use crate::{Starts, check};

/// Rows of a part at most.
pub(super) const PART: usize = 128;

/// Where sequences lie among the rows of a batch, and the parts that they are cut into.
#[derive(Clone, Debug)]
pub struct Parts {
    sequences: usize,
    /// Rows of a sequence that is not packed.
    pub(super) length: usize,
    packed: Option<Packed>,
}

/// Sequences of any lengths.
#[derive(Clone, Debug)]
struct Packed {
    /// Where each sequence begins, and the end of the last; the first part of each, and how many there are of all; the
    /// sequence of each part.
    table: Vec<u32>,
    /// The same on a GPU.
    on_gpu: Option<Tensor>,
}

impl Parts {
    /// Those of the rows of a (batch, length) block, or of what is packed in them, for kernels of `device`.
    ///
    /// # Errors
    /// [`Error::Range`](serpens_core::Error::Range) for rows without positions, or 2³¹ and more of these;
    /// [`Error::Shape`](serpens_core::Error::Shape) for starts of another block.
    pub fn new(
        starts: Option<&Starts>,
        [batch, length]: [usize; 2],
        device: Device,
    ) -> Result<Self> {
        check::range(OP, "the rows of a sequence", 1..usize::MAX, length)?;
        check::int(OP, "the rows of x", batch.saturating_mul(length))?;
        let unpacked = Self {
            sequences: batch,
            length,
            packed: None,
        };
        let Some(starts) = starts else {
            return Ok(unpacked);
        };
        let flags = starts.flags(OP, batch, length, false)?;
        let begins = (0..flags.len()).filter(|&row| flags[row] || row % length == 0);
        let mut bounds: Vec<u32> = begins.map(|row| row as u32).collect();
        let sequences = bounds.len();
        bounds.push(flags.len() as u32);
        let (mut firsts, mut owners) = (vec![0], Vec::new());
        for (sequence, bounds) in bounds.windows(2).enumerate() {
            let parts = (bounds[1] - bounds[0]).div_ceil(PART as u32);
            owners.extend(std::iter::repeat_n(sequence as u32, parts as usize));
            firsts.push(owners.len() as u32);
        }
        let table = [bounds, firsts, owners].concat();
        let on_gpu = match device {
            Device::Cpu => None,
            Device::Cuda(_) => Some(Tensor::from_slice([1, table.len()], &table, device)?),
        };
        Ok(Self {
            sequences,
            packed: Some(Packed { table, on_gpu }),
            ..unpacked
        })
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// How many parts there are of all.
    pub(super) fn count(&self) -> usize {
        self.first(self.sequences)
    }

    /// The first row of a sequence; of the one behind the last the number of rows.
    pub(super) fn bound(&self, sequence: usize) -> usize {
        match &self.packed {
            Some(packed) => packed.table[sequence] as usize,
            None => sequence * self.length,
        }
    }

    /// The parts of a sequence that is not packed.
    pub(super) fn of_each(&self) -> usize {
        self.length.div_ceil(PART)
    }

    /// The first part of a sequence; of the one behind the last the number of parts.
    pub(super) fn first(&self, sequence: usize) -> usize {
        match &self.packed {
            Some(packed) => packed.table[self.sequences + 1 + sequence] as usize,
            None => sequence * self.of_each(),
        }
    }

    /// The sequence of a part, and its rows.
    pub(super) fn part(&self, part: usize) -> (usize, Range<usize>) {
        let sequence = match &self.packed {
            Some(packed) => packed.table[2 * (self.sequences + 1) + part] as usize,
            None => part / self.of_each(),
        };
        let from = self.bound(sequence) + (part - self.first(sequence)) * PART;
        let to = self.bound(sequence + 1).min(from + PART);
        (sequence, from..to)
    }

    /// The table on a GPU: bounds, first parts, owners of parts.
    pub(super) fn on_gpu(&self) -> Option<[View<'_>; 3]> {
        let table = self.packed.as_ref()?.on_gpu.as_ref()?.view();
        let (firsts, owners) = (self.sequences + 1, 2 * (self.sequences + 1));
        let columns = |range| table.columns(range);
        Some([
            columns(0..firsts),
            columns(firsts..owners),
            columns(owners..table.cols()),
        ])
    }
}
