//! Batches, and the trait of everything that yields them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// Where a stream stands: saved with a checkpoint, it continues the stream exactly.
///
/// Every batch is a function of the stream and of its index alone, so the index is all there is to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The stream's settings and seed, so that a position is never used on another stream unnoticed.
    pub source: String,
    /// Batches yielded so far, which is the index of the next one.
    pub batches: u64,
}

impl Position {
    /// The beginning of the stream with this description.
    pub fn start(source: String) -> Self {
        Position { source, batches: 0 }
    }

    /// The index of the next batch; the position is then the one after it.
    pub fn advance(&mut self) -> u64 {
        let index = self.batches;
        self.batches = index.wrapping_add(1); // the counter's period is the stream's
        index
    }

    /// Moves to `position`.
    ///
    /// # Errors
    /// [`Error::OtherStream`] where it belongs to a stream with another description; nothing moves then.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        if self.source != position.source {
            return Err(Error::OtherStream {
                saved: position.source.clone(),
                here: self.source.clone(),
            });
        }
        self.batches = position.batches;
        Ok(())
    }
}

/// A deterministic, endless stream of batches whose position can be saved.
pub trait Source: Send {
    /// The next batch. // inputs and targets: (batch, length)
    ///
    /// After an error the stream stands where it stood before.
    fn next_batch(&mut self) -> Result<Batch>;

    /// Where the stream stands: [`seek`](Source::seek) on an equal source continues from here exactly.
    fn position(&self) -> Position;

    /// Moves to a position saved earlier, at the same cost wherever it lies.
    ///
    /// # Errors
    /// [`Error::OtherStream`] if it was saved from a stream of other settings, seed or text; the stream then
    /// stays where it is.
    fn seek(&mut self, position: &Position) -> Result<()>;

    /// What the ids of every batch stay below.
    fn bounds(&self) -> Bounds;
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn next_batch(&mut self) -> Result<Batch> {
        (**self).next_batch()
    }

    fn position(&self) -> Position {
        (**self).position()
    }

    fn seek(&mut self, position: &Position) -> Result<()> {
        (**self).seek(position)
    }

    fn bounds(&self) -> Bounds {
        (**self).bounds()
    }
}
