//! Batches, and the trait of everything that yields them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The target at positions that carry no loss; never a token, as every vocabulary ends below it.
pub const IGNORE: u32 = u32::MAX;

/// Token ids and what should be predicted from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What the model reads: ids below [`Source::vocab`], row-major. // (batch, length)
    pub inputs: Vec<u32>,
    /// What it should answer at each position, [`IGNORE`] where there is no loss. // (batch, length)
    pub targets: Vec<u32>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens in each row.
    pub length: usize,
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
    /// The index of the next batch, if the position was taken from the stream described by `here`.
    pub(crate) fn batches_of(&self, here: &str) -> Result<u64> {
        if self.source != here {
            return Err(Error::OtherStream {
                saved: self.source.clone(),
                here: here.to_owned(),
            });
        }
        Ok(self.batches)
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

    /// Number of token ids: every input, and every target but [`IGNORE`], is below it.
    fn vocab(&self) -> usize;
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

    fn vocab(&self) -> usize {
        (**self).vocab()
    }
}
