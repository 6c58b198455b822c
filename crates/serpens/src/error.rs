//! What the command can fail with, and its exit codes.

use std::path::PathBuf;

use serpens_core::files::FileError;
use serpens_data::Error as DataError;
use serpens_infer::{Broken, Error as InferError};
use serpens_train::Error as TrainError;

use crate::hub::HubError;
use crate::output::shell_word;
use crate::recipe::names;
use crate::refusal::{Refusal, WrongModel};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the command. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model or its files failed.
    #[error(transparent)]
    Model(#[from] serpens_nn::Error),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// Running a model failed.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// No recipe of this name is built in.
    #[error("no recipe is called {0:?}; known are {known}; --recipe reads one of your own, train text --data a text", known = names())]
    UnknownRecipe(String),
    /// An option, a recipe or a setting of one that cannot be.
    #[error("{what}: {source}")]
    Refused {
        /// The option, the setting, or the recipe's file and line.
        what: String,
        /// What is wrong and what to do.
        source: Refusal,
    },
    /// A run of this name is there already, in this folder.
    #[error("{} is there already: choose another --name, or go on with --resume", .0.display())]
    RunExists(PathBuf),
    /// A model that the command cannot work with.
    #[error("{}: {source}", path.display())]
    WrongModel {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        source: WrongModel,
    },
    /// A model on the hub that cannot be had.
    #[error("{name}: {source}")]
    Hub {
        /// Its name.
        name: String,
        /// Why not.
        source: HubError,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// Ctrl-C ended the run; everything is saved.
    #[error("interrupted after step {step}; all is saved, go on with: serpens train --resume {}", shell_word(&dir.to_string_lossy()))]
    Interrupted {
        /// Steps done.
        step: u64,
        /// The run's folder.
        dir: PathBuf,
    },
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, source: impl Into<Refusal>) -> Self {
        Error::Refused {
            what: what.into(),
            source: source.into(),
        }
    }

    pub(crate) fn wrong_model(path: impl Into<PathBuf>, source: impl Into<WrongModel>) -> Self {
        Error::WrongModel {
            path: path.into(),
            source: source.into(),
        }
    }

    /// 130 after Ctrl-C, 2 for what was asked wrongly, 1 for what went wrong.
    pub fn exit_code(&self) -> u8 {
        use {DataError as Data, TrainError as Train};
        match self {
            Error::Interrupted { .. } => 130,
            Error::UnknownRecipe(_) | Error::Refused { .. } | Error::RunExists(_) => 2,
            Error::Infer(InferError::SampleOption(_) | InferError::Bias { .. }) => 2,
            Error::Infer(InferError::EmptyPrompt | InferError::Logits(Broken::Adjusted)) => 2,
            Error::Model(error) | Error::Train(Train::Model(error)) if error.is_config() => 2,
            Error::Infer(InferError::Model(error)) if error.is_config() => 2,
            Error::Train(Train::Config { .. } | Train::OtherSettings { .. }) => 2,
            Error::Train(Train::NoEvaluation) => 2,
            Error::Data(Data::Size { .. } | Data::InvalidFraction { .. }) => 2,
            Error::Data(Data::MalformedGlob { .. }) => 2,
            _ => 1,
        }
    }
}
