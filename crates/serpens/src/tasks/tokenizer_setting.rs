//! What makes tokens of a task's text.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_data::{Content, Tokenizer};

use crate::refusal::Refusal;
use crate::{Error, Result};

/// A tokenizer's file or folder; tokens are the model's that is gone on from where none is named, otherwise bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenizerSetting {
    /// The file or folder.
    pub path: Option<String>,
    /// The same, where it was opened with the model that is gone on from.
    #[serde(skip)]
    pub(crate) opened: Option<Tokenizer>,
}

impl TokenizerSetting {
    pub(super) fn is_bytes(&self) -> bool {
        self.path.is_none()
    }

    pub(super) fn open(&self) -> Result<Tokenizer> {
        match (&self.opened, &self.path) {
            (Some(tokenizer), _) => Ok(tokenizer.clone()),
            (None, None) => Ok(Tokenizer::bytes()),
            (None, Some(path)) => {
                let opened = Tokenizer::open(Path::new(path));
                opened.map_err(|error| Error::refused("task.tokenizer", error))
            }
        }
    }

    /// The tokenizer that follows from the content, where none may be chosen.
    ///
    /// # Errors
    /// [`Error::Refused`] for one that was chosen, or is that of a model that is gone on from, and is another.
    pub(super) fn given_by(&self, content: &Content) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::of(content)?;
        let chosen = match (&self.opened, &self.path) {
            (Some(opened), _) => Some(opened.clone()),
            (None, Some(_)) => Some(self.open()?),
            (None, None) => None,
        };
        match chosen.is_some_and(|chosen| chosen != tokenizer) {
            true => Err(Error::refused("task.tokenizer", Refusal::OtherTokens)),
            false => Ok(tokenizer),
        }
    }

    /// The sizes that a model's vocabulary may have.
    pub(super) fn vocabulary(&self, tokens: usize) -> RangeInclusive<usize> {
        match self {
            Self {
                path: None,
                opened: None,
            } => tokens..=tokens,
            _ => tokens..=usize::MAX, // models have room for more, up to a round number
        }
    }
}
