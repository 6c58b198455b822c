//! Batches, and the trait of everything that yields them.

use crate::error::Result;

/// The target at positions that carry no loss; never a token, as every vocabulary ends below it.
pub const IGNORE: u32 = u32::MAX;

/// Token ids and what should be predicted from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What the model reads: ids below [`Bounds::inputs`], row-major. // (batch, length)
    pub inputs: Vec<u32>,
    /// What it should answer at each position: below [`Bounds::targets`], or [`IGNORE`] where there is no loss.
    /// // (batch, length)
    pub targets: Vec<u32>,
    /// Whether a sequence starts at each position, of which nothing before it is to be known; `None` where rows are one
    /// sequence. // (batch, length)
    pub starts: Option<Vec<bool>>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens in each row.
    pub length: usize,
}

impl Batch {
    /// A batch of this size, still without tokens.
    pub(crate) fn with_room(batch: usize, length: usize) -> Self {
        Batch {
            inputs: Vec::with_capacity(batch * length),
            targets: Vec::with_capacity(batch * length),
            starts: None,
            batch,
            length,
        }
    }
}

/// What the ids of a source's batches stay below, so that a model can be held against it before the first batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Every input is below it: the tokens that a model must know.
    pub inputs: usize,
    /// Every target but [`IGNORE`] is below it: the answers that a model must be able to give.
    pub targets: usize,
}

impl Bounds {
    /// Of a source whose targets are tokens as its inputs are.
    pub fn tokens(vocab: usize) -> Self {
        Bounds {
            inputs: vocab,
            targets: vocab,
        }
    }
}

/// A deterministic, endless stream of batches. Each is a function of the stream and of its own index alone: an index
/// says where a reading stands, every place is reached at the same cost, and from any thread.
pub trait Source: Send + Sync {
    /// Batch `index`. // inputs and targets: (batch, length)
    ///
    /// # Errors
    /// What keeps the batch from being made; [`Error::other`](crate::Error::other) for a source of a program's own.
    fn batch(&self, index: u64) -> Result<Batch>;

    /// What the ids of every batch stay below.
    fn bounds(&self) -> Bounds;

    /// Settings, seed and data in words, which differ where the batches do: a training is resumed on the same only.
    fn description(&self) -> String;
}
