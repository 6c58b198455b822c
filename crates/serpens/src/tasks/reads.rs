//! What models that answer read, and what their answers are called.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::files::{Accept, read_text, write_bytes};
use serpens_data::{AudioConfig, AudioForm, Content};
use serpens_nn::PredictorConfig;

use crate::refusal::WrongModel;
use crate::{Error, Result};

/// The file beside such a model.
const FILE: &str = "reads.json";

/// The most positions that are read at a time.
const MOST_LENGTH: usize = 1 << 26;

/// What a model that answers reads, and what its answers are called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reads {
    /// How files are read.
    pub(crate) content: Content,
    /// Positions that are read at a time.
    pub(crate) length: usize,
    /// What is answered.
    pub(crate) answers: Named,
}

/// What answers are called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Named {
    /// Nothing: the next token is written.
    Tokens,
    /// One of these.
    Classes(Vec<String>),
    /// The next rows of these columns.
    Columns {
        /// Their names.
        names: Vec<String>,
        /// The mean and the standard deviation of each where the model learnt; see [`serpens_data::Series`].
        scale: Vec<[f32; 2]>,
        /// How many rows.
        horizon: usize,
    },
}

impl Reads {
    /// Keeps it beside the model in this folder.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("it has names and numbers");
        Ok(write_bytes(&dir.join(FILE), text)?)
    }

    /// How the model in this folder reads files: as text, where nothing is said.
    pub(crate) fn content_of(dir: &Path) -> Result<Content> {
        match dir.join(FILE).exists() {
            true => Ok(Self::open(dir)?.content),
            false => Ok(Content::Text),
        }
    }

    /// How the model in this folder reads sound, where that is what it writes.
    pub(crate) fn sound(dir: &Path) -> Result<Option<AudioConfig>> {
        Ok(match Self::content_of(dir)? {
            Content::Audio(audio) if audio.form == AudioForm::MuLaw => Some(audio),
            _ => None,
        })
    }

    /// Of the model in this folder.
    ///
    /// # Errors
    /// A file that is missing or broken.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = read_text(&path, Accept::Files)?;
        let read = serde_json::from_str(&text);
        read.map_err(|error| Error::wrong_model(&path, WrongModel::Reads(error)))
    }

    /// Refuses what another model than the one in this folder reads or answers.
    pub(crate) fn check(&self, dir: &Path, model: &PredictorConfig) -> Result<()> {
        let outputs = match &self.answers {
            Named::Tokens => 0,
            Named::Classes(classes) => classes.len(),
            Named::Columns { names, scale, .. } if names.len() != scale.len() => 0,
            Named::Columns { scale, .. } if scale.len() != model.channels => 0,
            Named::Columns { scale, horizon, .. } => scale.len().saturating_mul(*horizon),
        };
        let pooled = matches!(self.answers, Named::Classes(_)) == model.head.pooling.is_some();
        let fits =
            (1..=MOST_LENGTH).contains(&self.length) && outputs == model.head.outputs && pooled;
        match fits {
            true => Ok(()),
            false => Err(Error::wrong_model(dir.join(FILE), WrongModel::OtherReads)),
        }
    }
}
