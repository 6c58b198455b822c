//! Induction heads (section 4.1.2 of arXiv 2312.00752): what followed the special token the first time?

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::error::{Result, check_batch, check_size};
use crate::random::{Purpose, counter_rng};
use crate::source::{Batch, Bounds, IGNORE, Numbers, Source};

const PLACE: &str = "induction heads";

/// Shorter rows leave the special token a single place to stand, and nothing to search for.
const LEAST_LENGTH: usize = 4;

/// Settings of [`InductionHeads`]; the defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct InductionHeadsConfig {
    /// Number of tokens, the special one (`vocab - 1`) among them. At least 3.
    #[default = 16]
    pub vocab: usize,
    /// Rows of a batch.
    #[default = 8]
    pub batch: usize,
    /// Lengths of rows, each at least 4: every batch draws one of them, all with the same chance.
    #[default(vec![256])]
    pub lengths: Vec<usize>,
    /// Another seed, another stream.
    pub seed: u64,
}

/// The induction heads task, endless and without files.
///
/// A row is random ordinary tokens (ids `0..vocab-1`), with the special token (id `vocab - 1`) at one random
/// place `p` in `0..=length-3` and once more at the very end. The answer is the token `x` at `p + 1`; it is the
/// target of the last position, and every other target is [`IGNORE`]:
///
/// ```text
/// input    4  9  S  7  1  0  4  S
/// target   -  -  -  -  -  -  -  7
/// ```
///
/// Answering at random is right once in `vocab - 1`.
///
/// Batch `i` is a function of the settings and of `i` alone (ChaCha8 keyed by the seed, with stream `i`).
#[derive(Debug, Clone)]
pub struct InductionHeads {
    config: InductionHeadsConfig,
}

impl InductionHeads {
    /// The stream of `config`.
    ///
    /// # Errors
    /// [`Size`](crate::Error::Size) for sizes that the task is not defined for.
    pub fn new(config: InductionHeadsConfig) -> Result<Self> {
        check_size(PLACE, "vocab", config.vocab, 3..=IGNORE as usize)?;
        let lengths = config.lengths.len();
        check_size(PLACE, "number of lengths", lengths, 1..=usize::MAX)?;
        for &length in &config.lengths {
            check_sizes(config.batch, length)?;
        }
        Ok(InductionHeads { config })
    }

    /// The id that comes twice: `vocab - 1`.
    pub fn special(&self) -> u32 {
        (self.config.vocab - 1) as u32
    }

    /// Evaluation batch `index`, of any length (the paper goes to 2^20). // (batch, length)
    ///
    /// A function of seed and arguments, drawn apart from every training batch.
    ///
    /// # Errors
    /// As [`InductionHeads::new`].
    pub fn evaluation_batch(&self, batch: usize, length: usize, index: u64) -> Result<Batch> {
        check_sizes(batch, length)?;
        let mut rng = counter_rng(self.config.seed, Purpose::Evaluation, index);
        Ok(self.draw(&mut rng, batch, length))
    }

    fn draw(&self, rng: &mut ChaCha8Rng, batch: usize, length: usize) -> Batch {
        let (special, mut drawn) = (self.special(), Batch::with_room(batch, length));
        for _ in 0..batch {
            let (inputs, start) = (&mut drawn.inputs, drawn.targets.len());
            inputs.extend((0..length).map(|_| rng.random_range(0..special)));
            let place = start + rng.random_range(0..=length - 3);
            let last = start + length - 1;
            inputs[place] = special;
            inputs[last] = special;
            drawn.targets.resize(last, IGNORE);
            drawn.targets.push(inputs[place + 1]);
        }
        drawn
    }
}

fn check_sizes(batch: usize, length: usize) -> Result<()> {
    check_size(PLACE, "length", length, LEAST_LENGTH..=usize::MAX)?;
    check_batch(PLACE, batch, length)
}

impl Source for InductionHeads {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let mut rng = counter_rng(self.config.seed, Purpose::Training, index);
        let lengths = &self.config.lengths;
        let length = lengths[rng.random_range(0..lengths.len())];
        Ok(self.draw(&mut rng, self.config.batch, length).into())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.config.vocab)
    }

    fn description(&self) -> String {
        let config = &self.config;
        let (vocab, batch, seed) = (config.vocab, config.batch, config.seed);
        let lengths = &config.lengths;
        format!("induction heads, vocab {vocab}, batch {batch}, lengths {lengths:?}, seed {seed}")
    }
}
