//! Where sequences begin that are packed one behind the other.

use serpens_core::{Device, Error, Result, Shape, Tensor, View};

/// For each position of a (batch, length) block, whether a sequence starts there: operations over time remember nothing
/// across such a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts {
    flags: Vec<bool>,
    batch: usize,
    length: usize,
}

impl Starts {
    /// Sequences of these lengths one behind the other in a batch of one.
    pub fn from_lengths(lengths: &[usize]) -> Self {
        let total = lengths.iter().sum();
        let mut flags = vec![false; total];
        let mut start = 0;
        for &length in lengths {
            if length > 0 {
                flags[start] = true;
            }
            start += length;
        }
        Self {
            flags,
            batch: 1,
            length: total,
        }
    }

    /// A sequence starts wherever the number differs from the one before: `ids` is (batch, length), row by row.
    ///
    /// # Errors
    /// [`Error::Multiple`] where `ids` is not batch rows of equal length.
    pub fn from_sequence_ids(ids: &[u32], batch: usize) -> Result<Self> {
        let length = ids.len().checked_div(batch).unwrap_or(0);
        if batch * length != ids.len() {
            return Err(Error::Multiple {
                op: "Starts::from_sequence_ids",
                what: "the number of ids",
                factor: batch,
                got: ids.len(),
            });
        }
        let flags = (0..ids.len())
            .map(|i| i % length == 0 || ids[i] != ids[i - 1])
            .collect();
        Ok(Self {
            flags,
            batch,
            length,
        })
    }

    /// The flags, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are for another batch or length.
    pub fn flags(&self, op: &'static str, batch: usize, length: usize) -> Result<&[bool]> {
        if (self.batch, self.length) == (batch, length) {
            return Ok(&self.flags);
        }
        let expected = Shape::new(&[batch, length]).to_string();
        let got = Shape::new(&[self.batch, self.length]);
        Err(Error::shape(op, "the sequence starts", expected, got))
    }

    /// The flags on `device`, after the same check: one byte each, four to a word of the tensor.
    pub fn bytes(
        &self,
        op: &'static str,
        batch: usize,
        length: usize,
        device: Device,
    ) -> Result<Tensor> {
        let flags = self.flags(op, batch, length)?;
        let words: Vec<u32> = flags
            .chunks(4)
            .map(|four| {
                let byte = |i| u8::from(four.get(i).copied().unwrap_or(false));
                u32::from_ne_bytes(std::array::from_fn(byte))
            })
            .collect();
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
    /// # Errors
    /// Those of [`Starts::bytes`].
    pub(crate) fn new(
        starts: &Starts,
        op: &'static str,
        [batch, length]: [usize; 2],
        device: Device,
    ) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Self::Flags(starts.flags(op, batch, length)?.to_vec()),
            Device::Cuda(_) => Self::Bytes(starts.bytes(op, batch, length, device)?),
        })
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
