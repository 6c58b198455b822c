//! Where sequences begin that are packed one behind the other.

use std::ops::Range;

use serpens_core::{Device, Error, Result, Shape, Tensor, Var, View};

use super::check;

/// For each position of a (batch, length) block, whether a sequence starts there: operations over time remember nothing
/// across such a position.
///
/// Rows are whole: each begins and ends with a sequence, so that no state can stand before them, and an operation that
/// is given one all the same refuses it. Rows that are read a chunk at a time, each with the state that the one before
/// it left, are described by [`Starts::chunk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts {
    /// (batch, length + 1): the last of a row says whether a sequence ends with it.
    flags: Vec<bool>,
    batch: usize,
    length: usize,
    whole: bool,
}

impl Starts {
    /// Sequences of these lengths one behind the other in a batch of one.
    pub fn from_lengths(lengths: &[usize]) -> Self {
        let ids = lengths.iter().zip(0_u32..);
        let ids = ids.flat_map(|(&length, id)| std::iter::repeat_n(id, length));
        let row = Self::from_sequence_ids(&ids.collect::<Vec<u32>>(), 1);
        row.expect("any number of ids is one row")
    }

    /// A sequence starts wherever the number differs from the one before: `ids` is (batch, length), row by row.
    ///
    /// # Errors
    /// [`Error::Multiple`] where `ids` is not batch rows of equal length.
    pub fn from_sequence_ids(ids: &[u32], batch: usize) -> Result<Self> {
        let length = ids.len().checked_div(batch).unwrap_or(0);
        let (op, what) = ("Starts::from_sequence_ids", "the number of ids");
        check::multiple(op, what, batch, ids.len())?;
        let flag = |row: usize, t: usize| {
            let at = row * length + t;
            t == 0 || t == length || ids[at] != ids[at - 1]
        };
        let flags = (0..batch).flat_map(|row| (0..=length).map(move |t| flag(row, t)));
        Ok(Self {
            flags: flags.collect(),
            batch,
            length,
            whole: true,
        })
    }

    /// These positions of every row, to be read with the state that the chunk before them left, or in reverse the chunk
    /// behind them. A row goes on from it where one of its sequences reaches into the chunk; where the chunk begins
    /// with a sequence, the row takes nothing of the state, and its gradient there is zero. So chunks equal the whole.
    ///
    /// Where only chunks are at hand, the first row may be one position longer than is read: ids with the last one of
    /// the chunk before them in front, or a first length with one added, and then `chunk(1..)`.
    ///
    /// # Errors
    /// [`Error::Range`] where the rows have no such positions.
    pub fn chunk(&self, positions: Range<usize>) -> Result<Self> {
        let Range { start, end } = positions;
        let op = "Starts::chunk";
        check::range(op, "the end of the positions", 0..self.length + 1, end)?;
        check::range(op, "their start", 0..end + 1, start)?;
        let rows = self.flags.chunks_exact(self.length + 1);
        Ok(Self {
            flags: rows.flat_map(|row| &row[start..=end]).copied().collect(),
            batch: self.batch,
            length: end - start,
            whole: false,
        })
    }

    /// Whether a sequence starts at each position, row by row; in reverse, where time runs from the last position to
    /// the first, whether it ends there.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are for another batch or length.
    pub fn flags(
        &self,
        op: &'static str,
        batch: usize,
        length: usize,
        reverse: bool,
    ) -> Result<Vec<bool>> {
        if (self.batch, self.length) != (batch, length) {
            let expected = Shape::new(&[batch, length]).to_string();
            let got = Shape::new(&[self.batch, self.length]);
            return Err(Error::shape(op, "the sequence starts", expected, got));
        }
        let first = usize::from(reverse);
        let rows = self.flags.chunks_exact(length + 1);
        Ok(rows
            .flat_map(|row| &row[first..first + length])
            .copied()
            .collect())
    }

    /// [`Starts::flags`] on `device`, after the same check: one byte each, four to a word of the tensor.
    pub fn bytes(
        &self,
        op: &'static str,
        batch: usize,
        length: usize,
        reverse: bool,
        device: Device,
    ) -> Result<Tensor> {
        let flags = self.flags(op, batch, length, reverse)?.into_iter();
        let mut bytes: Vec<u8> = flags.map(u8::from).collect();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        Tensor::from_slice([words.len()], &words, device)
    }
}

/// Starts as the kernels of a device take them.
pub(crate) enum DeviceStarts {
    Flags(Vec<bool>),
    /// A byte for each position.
    Bytes(Tensor),
}

impl DeviceStarts {
    /// Those of an operation that is given a state, or none.
    ///
    /// # Errors
    /// Those of [`Starts::flags`], and [`Error::Surplus`] where a state stands before whole rows.
    pub(crate) fn new(
        starts: Option<&Starts>,
        op: &'static str,
        [batch, length]: [usize; 2],
        reverse: bool,
        state: Option<&Var>,
        device: Device,
    ) -> Result<Option<Self>> {
        let Some(starts) = starts else {
            return Ok(None);
        };
        if starts.whole && state.is_some() {
            let what = "a state before whole packed rows (Starts::chunk tells of rows that go on)";
            return Err(Error::Surplus { op, what });
        }
        Ok(Some(match device {
            Device::Cpu => Self::Flags(starts.flags(op, batch, length, reverse)?),
            Device::Cuda(_) => Self::Bytes(starts.bytes(op, batch, length, reverse, device)?),
        }))
    }

    pub(crate) fn flags(&self) -> Option<&[bool]> {
        match self {
            Self::Flags(flags) => Some(flags),
            Self::Bytes(_) => None,
        }
    }

    pub(crate) fn bytes(&self) -> Option<View<'_>> {
        match self {
            Self::Flags(_) => None,
            Self::Bytes(bytes) => Some(bytes.view()),
        }
    }
}
