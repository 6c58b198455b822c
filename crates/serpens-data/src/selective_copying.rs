//! Selective copying (section 4.1.1 of arXiv 2312.00752): remember the data, pass over the noise.

use rand::RngExt;
use rand::seq::index;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::error::{Result, check_batch, check_size};
use crate::random::{Purpose, counter_rng};
use crate::source::{Batch, Bounds, IGNORE, Numbers, Source};

const PLACE: &str = "selective copying";

/// Settings of [`SelectiveCopying`]; the defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct SelectiveCopyingConfig {
    /// Number of tokens, noise (0) and the query marker (`vocab - 1`) among them. At least 4.
    #[default = 16]
    pub vocab: usize,
    /// Rows of a batch.
    #[default = 64]
    pub batch: usize,
    /// Positions over which the data are strewn; a row has `data_tokens` more. At least `data_tokens`.
    #[default = 4096]
    pub length: usize,
    /// Tokens to remember, and queries at the end.
    #[default = 16]
    pub data_tokens: usize,
    /// Another seed, another stream.
    pub seed: u64,
}

/// The selective copying task, endless and without files.
///
/// The first `length` tokens of a row are noise (id 0), but for `data_tokens` random places, which hold random
/// data (ids `1..vocab-1`). Then `data_tokens` query markers (id `vocab - 1`) follow, each asking for the next of
/// the data, in the order in which they came; these are the only targets that are not [`IGNORE`]:
///
/// ```text
/// input    0  5  0  0  3  0  5  Q  Q  Q
/// target   -  -  -  -  -  -  -  5  3  5
/// ```
///
/// Noise first and the marker last in the vocabulary is the convention of the task's published generators.
/// Answering at random is right once in `vocab - 2`.
///
/// Batch `i` is a function of the settings and of `i` alone (ChaCha8 keyed by the seed, with stream `i`).
#[derive(Debug, Clone)]
pub struct SelectiveCopying {
    config: SelectiveCopyingConfig,
}

impl SelectiveCopying {
    /// The id between the data.
    pub const NOISE: u32 = 0;

    /// The stream of `config`.
    ///
    /// # Errors
    /// [`Size`](crate::Error::Size) for sizes that the task is not defined for.
    pub fn new(config: SelectiveCopyingConfig) -> Result<Self> {
        let (length, data_tokens) = (config.length, config.data_tokens);
        check_size(PLACE, "vocab", config.vocab, 4..=IGNORE as usize)?;
        check_size(PLACE, "data_tokens", data_tokens, 1..=usize::MAX)?;
        check_size(PLACE, "length", length, data_tokens..=usize::MAX)?;
        check_batch(PLACE, config.batch, length.saturating_add(data_tokens))?;
        Ok(SelectiveCopying { config })
    }

    /// The id that asks for an answer: `vocab - 1`.
    pub fn query(&self) -> u32 {
        (self.config.vocab - 1) as u32
    }

    /// Evaluation batch `index`, drawn apart from every training batch.
    /// // (batch, length + data_tokens)
    pub fn evaluation_batch(&self, index: u64) -> Batch {
        self.draw(Purpose::Evaluation, index)
    }

    fn draw(&self, purpose: Purpose, number: u64) -> Batch {
        let config = &self.config;
        let (batch, length, data_tokens) = (config.batch, config.length, config.data_tokens);
        let mut rng = counter_rng(config.seed, purpose, number);
        let mut drawn = Batch::with_room(batch, length + data_tokens);
        let (inputs, targets) = (&mut drawn.inputs, &mut drawn.targets);
        for _ in 0..batch {
            let start = inputs.len();
            inputs.resize(start + length, Self::NOISE);
            targets.resize(start + length, IGNORE);
            let mut places = index::sample(&mut rng, length, data_tokens).into_vec();
            places.sort_unstable();
            for place in places {
                inputs[start + place] = rng.random_range(Self::NOISE + 1..self.query());
                targets.push(inputs[start + place]);
            }
            inputs.resize(start + length + data_tokens, self.query());
        }
        drawn
    }
}

impl Source for SelectiveCopying {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        Ok(self.draw(Purpose::Training, index).into())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.config.vocab)
    }

    fn description(&self) -> String {
        let config = &self.config;
        let (vocab, batch, length) = (config.vocab, config.batch, config.length);
        let (data_tokens, seed) = (config.data_tokens, config.seed);
        format!(
            "selective copying, vocab {vocab}, batch {batch}, length {length}, data_tokens {data_tokens}, seed {seed}"
        )
    }
}
