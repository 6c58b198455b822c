//! Batches, and the trait of everything that yields them.

use crate::error::Result;

/// The target at positions that carry no loss; never a token, as every vocabulary ends below it.
pub const IGNORE: u32 = u32::MAX;

/// What a model reads, or what it should answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Tokens, or classes: below [`Bounds`], or [`IGNORE`] as a target without a loss.
    Ids(Vec<u32>),
    /// Values, or probabilities of labels.
    Values(Vec<f32>),
}

impl Numbers {
    /// The ids, none where these are values.
    pub fn ids(&self) -> &[u32] {
        match self {
            Self::Ids(ids) => ids,
            Self::Values(_) => &[],
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        match self {
            Self::Ids(ids) => ids.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sequences and what should be predicted from them: token ids and a target for each where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<N = Vec<u32>> {
    /// What the model reads, row-major: ids below [`Bounds::inputs`], or values of several channels.
    /// // (batch, length) or (batch, length, channels)
    pub inputs: N,
    /// What it should answer: for each position an id below [`Bounds::targets`], or [`IGNORE`] where there is no loss;
    /// or what else its objective takes, such as one class of each sequence. // (batch, length)
    pub targets: N,
    /// Whether a sequence starts at each position, of which nothing before it is to be known; `None` where rows are one
    /// sequence. // (batch, length)
    pub starts: Option<Vec<bool>>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens in each row.
    pub length: usize,
}

impl From<Batch> for Batch<Numbers> {
    fn from(tokens: Batch) -> Self {
        Batch {
            inputs: Numbers::Ids(tokens.inputs),
            targets: Numbers::Ids(tokens.targets),
            starts: tokens.starts,
            batch: tokens.batch,
            length: tokens.length,
        }
    }
}

impl Batch<Numbers> {
    /// The same of ids, where inputs and targets are such.
    pub fn tokens(self) -> Option<Batch> {
        let (Numbers::Ids(inputs), Numbers::Ids(targets)) = (self.inputs, self.targets) else {
            return None;
        };
        Some(Batch {
            inputs,
            targets,
            starts: self.starts,
            batch: self.batch,
            length: self.length,
        })
    }
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
    /// Every id that is read is below it: the tokens that a model must know; 0 where values are read.
    pub inputs: usize,
    /// Every target but [`IGNORE`] is below it: the answers that a model must be able to give; of values how many there
    /// are for each answer.
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
    /// Batch `index`.
    ///
    /// # Errors
    /// What keeps the batch from being made; [`Error::other`](crate::Error::other) for a source of a program's own.
    fn batch(&self, index: u64) -> Result<Batch<Numbers>>;

    /// What the ids of every batch stay below.
    fn bounds(&self) -> Bounds;

    /// Settings, seed and data in words, which differ where the batches do: a training is resumed on the same only.
    fn description(&self) -> String;
}
