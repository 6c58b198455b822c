//! Reading a part from its beginning to its end, in several rows at once.

use std::ops::Range;

use super::{Corpus, Split};
use crate::error::{Result, check_batch, check_size};
use crate::source::{Batch, IGNORE};

const PLACE: &str = "slices";

/// The batches of [`Corpus::slices`], in order; ends when the part is read.
#[derive(Debug, Clone)]
pub struct Slices {
    corpus: Corpus,
    length: usize,
    /// The targets that each row has left, as places in the corpus; each one's input lies just before it.
    rows: Vec<Range<usize>>,
}

impl Corpus {
    /// A part in order, for models that carry their state from batch to batch. // (batch, length)
    ///
    /// The part is cut into `batch` stretches of equal length; row `b` walks along stretch `b`, and every batch
    /// goes on where the one before it ended. Every token of the part is a target exactly once (but for the first one
    /// of the whole corpus, which nothing precedes, and those that documents start with or only give). The last batch
    /// is shorter than `length`, and where the later stretches end early their rows are filled up with input 0 and
    /// target [`IGNORE`](crate::IGNORE).
    ///
    /// # Errors
    /// Of each batch: [`File`](crate::Error::File) and [`Changed`](crate::Error::Changed) files. Here
    /// [`Size`](crate::Error::Size) for an empty batch or length and for sizes beyond memory,
    /// [`TooShort`](crate::Error::TooShort) if the part holds nothing to predict.
    pub fn slices(&self, split: Split, batch: usize, length: usize) -> Result<Slices> {
        check_size(PLACE, "length", length, 1..=usize::MAX)?;
        check_batch(PLACE, batch, length)?;
        let range = self.range(split);
        let (first, end) = (range.start.max(1), range.end);
        self.check_length(split, 1 + first - range.start, length)?;
        let stretch = (end - first).div_ceil(batch);
        let border = |row| end.min(first + row * stretch);
        Ok(Slices {
            corpus: self.clone(),
            length,
            rows: (0..batch).map(|row| border(row)..border(row + 1)).collect(),
        })
    }
}

impl Slices {
    /// Rows of every batch.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The same reading with `most` targets at most, but one of each row: every row ends early, so that what is read
    /// lies spread evenly over the part.
    pub fn at_most(mut self, most: usize) -> Self {
        let each = (most / self.rows()).max(1);
        for row in &mut self.rows {
            row.end = row.end.min(row.start + each);
        }
        self
    }

    /// The same reading with the last `most` targets of each row at most.
    pub fn last_of(mut self, most: usize) -> Self {
        for row in &mut self.rows {
            row.start = row.start.max(row.end.saturating_sub(most));
        }
        self
    }

    /// Bytes of text that a batch's targets stand for.
    pub fn text_bytes(&self, batch: &Batch) -> usize {
        let counted = batch.targets.iter().filter(|&&target| target != IGNORE);
        let text = counted.map(|&target| self.corpus.tokenizer.text_of(target));
        text.map(<[u8]>::len).sum()
    }

    /// Tokens of the part that all batches that are left come to as targets.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(Range::len).sum()
    }

    /// The next batch, in which every row has `length` positions. // (batch, length)
    fn read(&mut self, length: usize) -> Result<Batch> {
        let mut batch = Batch::with_room(self.rows(), length);
        for row in &mut self.rows {
            let end = batch.inputs.len() + length;
            if let real @ 1.. = row.len().min(length) {
                self.corpus
                    .push_row(row.start - 1, real, None, &mut batch)?;
                row.start += real;
            }
            batch.inputs.resize(end, 0);
            batch.targets.resize(end, IGNORE);
            if let Some(starts) = &mut batch.starts {
                starts.resize(end, false);
            }
        }
        Ok(batch)
    }
}

impl Iterator for Slices {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let left = self.rows.iter().map(Range::len).max().unwrap_or_default();
        (left > 0).then(|| self.read(left.min(self.length)))
    }
}
