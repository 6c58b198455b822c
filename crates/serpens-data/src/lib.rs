//! What the models read: synthetic tasks and the bytes of files, in a deterministic and resumable order.
//!
//! A [`Source`] is an endless stream of [`Batch`]es. Batch `i` is a function of the settings, the seed and `i` alone,
//! so where a reading stands is a number, and every place costs the same.
//!
//! - [`InductionHeads`] and [`SelectiveCopying`]: the synthetic tasks of section 4.1 of arXiv 2312.00752;
//! - [`Corpus`]: the bytes of a file, a folder or a glob. [`Corpus::windows`] draws training windows from it,
//!   [`Corpus::slices`] reads it in order;
//! - [`Tokenizer`]: between text and tokens;
//! - [`Prefetch`]: any of these, prepared ahead on a thread.
//!
//! ```
//! use std::sync::Arc;
//!
//! use serpens_data::{
//!     Content, Corpus, Error, IGNORE, InductionHeads, InductionHeadsConfig, Prefetch, Source,
//!     Split, Tokenizer,
//! };
//!
//! # fn main() -> serpens_data::Result<()> {
//! // A synthetic task: the only target is at the end of each row.
//! let config = InductionHeadsConfig { lengths: vec![64, 128, 256], seed: 7, ..Default::default() };
//! let task = Arc::new(InductionHeads::new(config)?);
//! let batch = task.batch(0)?;
//! assert_eq!(batch.inputs.len(), batch.batch * batch.length);
//! let targets = batch.targets.ids();
//! assert!(targets[batch.length - 1] != IGNORE && targets[0] == IGNORE);
//!
//! // Read ahead, from any place on: the batches are the same either way.
//! let ahead = Prefetch::new(task.clone(), 2)?;
//! for index in 2..5 {
//!     assert_eq!(ahead.batch(index)?, task.batch(index)?);
//! }
//!
//! // Bytes: train on windows in random order, evaluate on the last tenth in order.
//! # let folder = tempfile::tempdir().expect("a folder for the example");
//! # let poem = "Out of the cradle endlessly rocking, ".repeat(30);
//! # std::fs::write(folder.path().join("poem.txt"), poem).expect("a file");
//! # let pattern = format!("{}/*.txt", folder.path().display());
//! # let pattern = pattern.as_str();
//! let (bytes, go_on) = (Tokenizer::bytes(), &mut |_, _| Ok::<_, Error>(()));
//! let corpus = Corpus::open(pattern, &Content::Text, &bytes, &[], go_on)?; // such as "poems/*.txt"
//! let train = corpus.windows(4, 32, 7)?;
//! let batch = train.batch(0)?;
//! assert_eq!(batch.inputs.ids()[1..32], batch.targets.ids()[..31]);
//! let slices = corpus.slices(Split::Validation, 1, 32)?;
//! let targets: usize = slices.map(|slice| slice.map_or(0, |s| s.targets.len())).sum();
//! assert_eq!(targets, corpus.tokens() / 10);
//! # Ok(())
//! # }
//! ```

pub mod baseline;
mod content;
mod corpus;
mod error;
mod files;
mod induction_heads;
mod labelled;
mod labels;
mod permutation;
mod prefetch;
mod random;
mod records;
mod selective_copying;
mod series;
mod source;
mod spectrum;
mod store;
mod tokenizer;
mod unpack;

pub use content::{
    Ambiguity, AudioConfig, AudioForm, Colours, Content, DnaConfig, Gaps, ImageConfig, LowerCase,
    TableConfig, columns, from_mu_law, idx_labels, mu_law, write_wav,
};
pub use corpus::{Corpus, CorpusSource, Counts, Slices, Split, tokenize};
pub use error::{Error, Result};
pub use induction_heads::{InductionHeads, InductionHeadsConfig};
pub use labelled::{LabelledRecords, LabelledSource, Window, windows};
pub use labels::Labels;
pub use prefetch::Prefetch;
pub use records::{Record, Records, Watch};
pub use selective_copying::{SelectiveCopying, SelectiveCopyingConfig};
pub use series::{Series, SeriesSource, scaled};
pub use source::{Batch, Bounds, IGNORE, Numbers, Source};
pub use spectrum::spectrogram;
pub use tokenizer::{Tokenizer, TokenizerError};
