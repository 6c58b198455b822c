//! What can be wrong with a tokenizer or a text for it.

use std::error::Error as StdError;

use crate::error::joined;

/// What is wrong, without the file: [`Error::Tokenizer`](crate::Error::Tokenizer) has that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The folder has none.
    #[error(
        "there is none of tokenizer.json, symbols.json, vocab.bpe with encoder.json, and vocab.json with merges.txt: give its file"
    )]
    Missing,
    /// The file is none, or not one that works.
    #[error("it is no tokenizer that can be read ({}): get its file anew", joined(&.0.to_string()))]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
    /// A GGUF file's `pre-tokenizer` or `model` of this name, which is known here only otherwise.
    #[error("its {0} is `{1}`, which is not known here: give its tokenizer.json instead")]
    Unknown(&'static str, String),
    /// A model has too few tokens for it.
    #[error(
        "it has {tokens} tokens, but the model only {vocabulary}: give the tokenizer of this model"
    )]
    Vocabulary {
        /// The tokenizer's.
        tokens: usize,
        /// The model's.
        vocabulary: usize,
    },
    /// Bytes that are no text, for a tokenizer of text.
    #[error("byte {0} of the text is not UTF-8: convert the text, or give the tokenizer `bytes`")]
    NotText(usize),
    /// A character that a table of symbols has no symbol for.
    #[error("it has no symbol for {0:?}: leave it out, or say in symbols.json what is unknown")]
    NoSymbol(char),
    /// There are tokens without a reverse complement.
    #[error(
        "it has tokens that are no nucleotides, which have no reverse complement: leave that out, or give a tokenizer of DNA"
    )]
    NoComplement,
}

impl TokenizerError {
    pub(crate) fn broken(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken(source.into())
    }
}
