//! Training windows in an order that is random, visits every window once per epoch, and is never stored.

use rand::RngExt;

use super::{Corpus, Split};
use crate::TokenizerError;
use crate::error::{Result, check_batch, check_size};
use crate::permutation::Permutation;
use crate::random::{Purpose, counter_rng};
use crate::source::{Batch, Bounds, Numbers, Source};

const PLACE: &str = "text";

/// Random windows of a corpus's training part, endless: inputs are `x[t]`, targets `x[t+1]`. // (batch, length)
///
/// An epoch lays windows of `length` inputs end to end over the text, beginning at a random offset below `length`
/// (another one each epoch, so that the borders move), and visits each of them once in random order. Batches run
/// on across the border of two epochs. Of `n` training tokens an epoch has `max(1, n / length - 1)` windows, as
/// many as fit at every offset; fewer than two lengths of text per epoch stay unread.
///
/// Where the tokens are those of documents, a window is whatever lies there: the end of one, some whole, the beginning
/// of another. [`Batch::starts`] says where they begin; what a document begins with is no target.
///
/// With [`reverse_complement`](Self::reverse_complement) half of them are read from the other strand.
///
/// Offset and order are functions of (seed, epoch): a Feistel network gives the window of any index in constant
/// time, so moving to any position costs the same.
#[derive(Debug, Clone)]
pub struct CorpusSource {
    corpus: Corpus,
    batch: usize,
    length: usize,
    seed: u64,
    windows: u64,
    largest_offset: usize,
    fingerprint: u64,
    /// Of each token its reverse complement, where both strands are read.
    complement: Option<Vec<u32>>,
}

impl Corpus {
    /// Windows of the training part, `batch` rows of `length` tokens at a time, in an order of this seed.
    ///
    /// # Errors
    /// [`TooShort`](crate::Error::TooShort) if the training part has fewer than `length + 1` tokens,
    /// [`Size`](crate::Error::Size) for impossible sizes, [`File`](crate::Error::File) and
    /// [`Changed`](crate::Error::Changed) for the files, as in every batch.
    pub fn windows(&self, batch: usize, length: usize, seed: u64) -> Result<CorpusSource> {
        check_size(PLACE, "length", length, 1..=usize::MAX)?;
        check_batch(PLACE, batch, length)?;
        self.check_length(Split::Train, length + 1, length)?;
        let available = self.split_tokens(Split::Train);
        let windows = (available / length - 1).max(1);
        Ok(CorpusSource {
            corpus: self.clone(),
            batch,
            length,
            seed,
            windows: windows as u64,
            largest_offset: (available - 1 - windows * length).min(length - 1),
            fingerprint: self.fingerprint()?,
            complement: None,
        })
    }
}

impl CorpusSource {
    /// The same windows of both strands of DNA: each is with probability 1/2, by a function of the seed and its number
    /// alone, its reverse complement. Then its tokens are those of the other strand in their order, documents start
    /// where there they end, and tokens that are not to be learnt stay so.
    ///
    /// # Errors
    /// [`Tokens`](crate::Error::Tokens) where a token has no reverse complement ([`Tokenizer::complement`]).
    ///
    /// [`Tokenizer::complement`]: crate::Tokenizer::complement
    pub fn reverse_complement(self) -> Result<Self> {
        let complement = self.corpus.tokenizer.complement();
        Ok(Self {
            complement: Some(complement.ok_or(TokenizerError::NoComplement)?),
            ..self
        })
    }

    /// The reverse complements of tokens if the `number`-th window since the beginning is of the other strand.
    fn strand(&self, number: u128) -> Option<&[u32]> {
        let complement = self.complement.as_deref()?;
        let mut rng = counter_rng(self.seed, Purpose::Strand, number as u64);
        rng.random::<bool>().then_some(complement)
    }

    /// The place in the text where the `number`-th window since the beginning of the stream starts.
    fn start(&self, number: u128) -> usize {
        let windows = u128::from(self.windows);
        let (epoch, index) = ((number / windows) as u64, (number % windows) as u64);
        let mut rng = counter_rng(self.seed, Purpose::EpochOrder, epoch);
        let offset = rng.random_range(0..=self.largest_offset);
        let window = Permutation::new(self.windows, &mut rng).apply(index) as usize;
        offset + window * self.length
    }
}

impl Source for CorpusSource {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let first = u128::from(index) * self.batch as u128;
        let mut drawn = Batch::with_room(self.batch, self.length);
        for row in 0..self.batch as u128 {
            let (start, strand) = (self.start(first + row), self.strand(first + row));
            self.corpus
                .push_row(start, self.length, strand, &mut drawn)?;
        }
        Ok(drawn.into())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.corpus.tokenizer.vocab_size())
    }

    fn description(&self) -> String {
        let tokens = match self.corpus.counts {
            None => "bytes".to_owned(),
            Some(_) => format!("tokens of {:016x}", self.corpus.tokenizer.fingerprint()),
        };
        let (batch, length, seed) = (self.batch, self.length, self.seed);
        let (available, text) = (self.corpus.split_tokens(Split::Train), self.fingerprint);
        let strands = self.complement.as_ref().map_or("", |_| ", both strands");
        format!(
            "{tokens}, {available} of text {text:016x}, batch {batch}, length {length}, seed {seed}{strands}"
        )
    }
}
