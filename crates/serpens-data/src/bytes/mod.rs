//! The bytes of files as tokens: a vocabulary of 256, no tokenizer, any content.

mod corpus;
mod files;
mod slices;
mod windows;

pub use corpus::{ByteCorpus, Split};
pub use slices::ByteSlices;
pub use windows::{ByteSource, ByteSourceConfig};
