//! Training windows in an order that is random, visits every window once per epoch, and is never stored.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{Corpus, Split};
use crate::error::{Error, Result, check_batch, check_size};
use crate::permutation::Permutation;
use crate::random::{Purpose, counter_rng};
use crate::source::{Batch, Bounds, Source};

const PLACE: &str = "text";

/// Settings of [`CorpusSource`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSourceConfig {
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Another seed, another order.
    pub seed: u64,
}

/// Random windows of a corpus's training part, endless: inputs are `x[t]`, targets `x[t+1]`. // (batch, length)
///
/// An epoch lays windows of `length` inputs end to end over the text, beginning at a random offset below `length`
/// (another one each epoch, so that the borders move), and visits each of them once in random order. Batches run
/// on across the border of two epochs. Of `n` training tokens an epoch has `max(1, n / length - 1)` windows, as
/// many as fit at every offset; fewer than two lengths of text per epoch stay unread.
///
/// Where the tokens are those of documents, a window is whatever lies there: the end of one, some whole, the beginning of
/// another. [`Batch::starts`] says where they begin; what a document begins with is no target.
///
/// Offset and order are functions of (seed, epoch): a Feistel network gives the window of any index in constant
/// time, so moving to any position costs the same.
#[derive(Debug, Clone)]
pub struct CorpusSource {
    corpus: Corpus,
    config: CorpusSourceConfig,
    windows: u64,
    largest_offset: usize,
    fingerprint: u64,
}

impl CorpusSource {
    /// Windows of the training part of `corpus`, in random order.
    ///
    /// # Errors
    /// [`TooShort`](Error::TooShort) if the training part has fewer than `length + 1` tokens,
    /// [`Size`](Error::Size) for impossible sizes, [`Unreadable`](Error::Unreadable) and [`Changed`](Error::Changed) for
    /// the files, as in every batch.
    pub fn new(corpus: &Corpus, config: CorpusSourceConfig) -> Result<Self> {
        let length = config.length;
        check_size(PLACE, "length", length, 1..=usize::MAX)?;
        check_batch(PLACE, config.batch, length)?;
        let available = corpus.split_tokens(Split::Train);
        if available <= length {
            return Err(Error::TooShort {
                split: Split::Train,
                available,
                needed: length + 1,
                length,
            });
        }
        let windows = (available / length - 1).max(1);
        let largest_offset = (available - 1 - windows * length).min(length - 1);
        Ok(CorpusSource {
            corpus: corpus.clone(),
            config,
            windows: windows as u64,
            largest_offset,
            fingerprint: corpus.fingerprint()?,
        })
    }

    /// The place in the text where the `number`-th window since the beginning of the stream starts.
    fn start(&self, number: u128) -> usize {
        let windows = u128::from(self.windows);
        let (epoch, index) = ((number / windows) as u64, (number % windows) as u64);
        let mut rng = counter_rng(self.config.seed, Purpose::EpochOrder, epoch);
        let offset = rng.random_range(0..=self.largest_offset);
        let window = Permutation::new(self.windows, &mut rng).apply(index) as usize;
        offset + window * self.config.length
    }
}

impl Source for CorpusSource {
    fn batch(&self, index: u64) -> Result<Batch> {
        let CorpusSourceConfig { batch, length, .. } = self.config;
        let first = u128::from(index) * batch as u128;
        let mut drawn = Batch::with_room(batch, length);
        for row in 0..batch as u128 {
            let start = self.start(first + row);
            self.corpus.push_row(start, length, &mut drawn)?;
        }
        Ok(drawn)
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.corpus.tokenizer.vocab_size())
    }

    fn description(&self) -> String {
        let config = &self.config;
        let (batch, length, seed) = (config.batch, config.length, config.seed);
        let available = self.corpus.split_tokens(Split::Train);
        let text = self.fingerprint;
        let tokens = match self.corpus.header {
            None => "bytes".to_owned(),
            Some(header) => format!("tokens of {:016x}", header.tokenizer),
        };
        format!(
            "{tokens}, {available} of text {text:016x}, batch {batch}, length {length}, seed {seed}"
        )
    }
}
