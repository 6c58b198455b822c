//! What can go wrong with running a model.

use std::path::PathBuf;

use serpens_ops::sampling::{BadOption, Broken};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of running a model. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A model failed.
    #[error(transparent)]
    Model(#[from] serpens_nn::Error),
    /// A file of a state cannot be read or written.
    #[error(transparent)]
    Format(#[from] serpens_formats::Error),
    /// An option of sampling outside its range.
    #[error(transparent)]
    SampleOption(#[from] BadOption),
    /// Logits, or what the options of sampling make of them, that leave nothing to draw from.
    #[error(transparent)]
    Logits(#[from] Broken),
    /// A bias for a token that is not drawn.
    #[error("logit bias: there is no token {token} to draw; give numbers below {vocabulary}")]
    Bias {
        /// The token.
        token: u32,
        /// How many tokens can be drawn, the first ones.
        vocabulary: usize,
    },
    /// There is nothing to go on from.
    #[error("there is no token to begin with: give a prompt, or a state to go on from")]
    EmptyPrompt,
    /// A state that another model or tokenizer left.
    #[error(
        "{}: the state is that of another {what}{} ({found:016x}, this one is {expected:016x}): read the prompt again",
        path.display(), if *what == "model" { ", or of this one with its weights held otherwise" } else { "" }
    )]
    ForeignState {
        /// The file.
        path: PathBuf,
        /// `model` or `tokenizer`.
        what: &'static str,
        /// The fingerprint of this one.
        expected: u64,
        /// That in the file.
        found: u64,
    },
    /// A file of tensors that is no state, or not one of this version.
    #[error("{}: {tensor} is not that of a state: read the prompt again", path.display())]
    NoState {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        tensor: String,
    },
}
