//! Reading a part from its beginning to its end, in several rows at once.

use super::{Corpus, Split};
use crate::error::{Error, Result, check_batch, check_size};
use crate::source::{Batch, IGNORE};

const PLACE: &str = "slices";

/// The batches of [`Corpus::slices`], in order; ends when the part is read.
#[derive(Debug, Clone)]
pub struct Slices {
    corpus: Corpus,
    batch: usize,
    length: usize,
    /// The targets of all rows together, as places in the corpus; each one's input lies just before it.
    targets: std::ops::Range<usize>,
    /// Targets of one row: row `b` has those from `targets.start + b · stretch` on.
    stretch: usize,
    /// How many of them are yielded.
    read: usize,
    /// Targets of each row that have been yielded.
    done: usize,
}

impl Corpus {
    /// A part in order, for models that carry their state from batch to batch. // (batch, length)
    ///
    /// The part is cut into `batch` stretches of equal length; row `b` walks along stretch `b`, and every batch
    /// goes on where the one before it ended. Every token of the part (but the first one of the whole corpus,
    /// which nothing precedes, and those that documents start with or only give) is a target exactly once. The last batch is shorter than `length`, and where the
    /// later stretches end early their rows are filled up with input 0 and target [`IGNORE`](crate::IGNORE).
    ///
    /// # Errors
    /// Of each batch: [`Unreadable`](Error::Unreadable) and [`Changed`](Error::Changed) files. Here
    /// [`Size`](Error::Size) for an empty batch or length and for sizes beyond memory, [`TooShort`](Error::TooShort) if
    /// the part holds nothing to predict.
    pub fn slices(&self, split: Split, batch: usize, length: usize) -> Result<Slices> {
        check_size(PLACE, "length", length, 1..=usize::MAX)?;
        check_batch(PLACE, batch, length)?;
        let range = self.range(split);
        let targets = range.start.max(1)..range.end;
        if targets.is_empty() {
            let needed = if range.start == 0 { 2 } else { 1 };
            return Err(Error::TooShort {
                split,
                available: range.len(),
                needed,
                length,
            });
        }
        let stretch = targets.len().div_ceil(batch);
        Ok(Slices {
            corpus: self.clone(),
            batch,
            length,
            targets,
            stretch,
            read: stretch,
            done: 0,
        })
    }
}

impl Slices {
    /// Rows of every batch.
    pub fn rows(&self) -> usize {
        self.batch
    }

    /// The same reading with `most` targets at most, but one of each row: every row ends early, so that what is read
    /// lies spread evenly over the part.
    pub fn at_most(self, most: usize) -> Self {
        let read = self.read.min(most / self.batch).max(1);
        Slices { read, ..self }
    }

    /// Bytes of text that a batch's targets stand for.
    pub fn text_bytes(&self, batch: &Batch) -> usize {
        let targets = batch.targets.iter().copied();
        let counted = targets.filter(|&target| target != IGNORE);
        self.corpus.tokenizer.text_bytes(counted)
    }

    /// Tokens of the part that all batches together come to as targets.
    pub fn tokens(&self) -> usize {
        let starts = (0..self.batch).map(|row| row * self.stretch);
        let left = starts.map(|start| self.targets.len().saturating_sub(start));
        left.map(|left| left.min(self.read)).sum()
    }

    /// Appends a row's inputs and targets: `length` of each. // (length)
    fn push_row(&self, row: usize, length: usize, into: &mut Batch) -> Result<()> {
        let start = (self.targets.start + row * self.stretch + self.done).min(self.targets.end);
        let real = length.min(self.targets.end - start);
        if real > 0 {
            self.corpus.push_row(start - 1, real, into)?;
        }
        into.inputs.extend(std::iter::repeat_n(0, length - real));
        if let Some(starts) = &mut into.starts {
            starts.extend(std::iter::repeat_n(false, length - real));
        }
        into.targets
            .extend(std::iter::repeat_n(IGNORE, length - real));
        Ok(())
    }
}

impl Iterator for Slices {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let length = self.length.min(self.read - self.done);
        if length == 0 {
            return None;
        }
        let mut batch = Batch::with_room(self.batch, length);
        let mut rows = 0..self.batch;
        let filled = rows.try_for_each(|row| self.push_row(row, length, &mut batch));
        self.done += length;
        Some(filled.map(|()| batch))
    }
}
