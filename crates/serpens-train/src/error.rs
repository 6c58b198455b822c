//! What can go wrong in training.

use std::io;
use std::path::PathBuf;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a training run. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A model or its files failed.
    #[error(transparent)]
    Model(#[from] serpens_nn::Error),
    /// A file of tensors cannot be read or written.
    #[error(transparent)]
    Format(#[from] serpens_formats::Error),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] serpens_data::Error),
    /// The loss or the gradient is not a number any more.
    #[error(
        "{what} is {value} at step {step}: training stopped, what was saved before is intact; lower the learning rate or clip gradients"
    )]
    NotFinite {
        /// `the loss`, `the gradient's norm` or the name of an evaluation's figure.
        what: String,
        /// Its value.
        value: f64,
        /// The step.
        step: u64,
    },
    /// A setting that no training can have.
    #[error("train.{field} = {value} is not possible: {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write` or `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A checkpoint's file is not what its name says.
    #[error("{} is not a usable checkpoint file: {reason}; remove its folder to resume from an earlier one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A new run would mix its checkpoints with those of an older one.
    #[error("{} already holds a run's checkpoints: resume it, or choose another folder", path.display())]
    RunExists {
        /// The folder of the newest checkpoint there.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} holds no checkpoint to resume from", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io {
            action,
            path: path.into(),
            source,
        }
    }
}
