//! What the command can fail with, and its exit codes.

use std::io;
use std::path::PathBuf;

use crate::output::shell_word;
use crate::refusal::{NoModel, WrongChange, WrongModel, WrongOption, WrongSetting};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the command. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Training failed.
    #[error(transparent)]
    Train(#[from] serpens_train::Error),
    /// A model or its files failed.
    #[error(transparent)]
    Model(#[from] serpens_nn::Error),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] serpens_data::Error),
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] serpens_ops::sample::SampleError),
    /// No recipe of this name is built in.
    #[error("no recipe is called {name:?}; did you mean {nearest:?}? `serpens recipes` lists them")]
    UnknownRecipe {
        /// The name given.
        name: String,
        /// The most similar one there is.
        nearest: String,
    },
    /// A key that no recipe has, or a name that its key does not take.
    #[error("{origin}: unknown {what} {key:?}; did you mean {nearest:?}?")]
    UnknownKey {
        /// The file and line, or the option.
        origin: String,
        /// `key` or `value`.
        what: &'static str,
        /// The key.
        key: String,
        /// The most similar one there is.
        nearest: String,
    },
    /// A recipe that cannot be read.
    #[error("{origin}: {}", first_line(source))]
    Recipe {
        /// The file and line, or the option.
        origin: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A change of a recipe that is none.
    #[error("{origin}: {source}")]
    Change {
        /// The option.
        origin: String,
        /// What is wrong.
        source: WrongChange,
    },
    /// A recipe's setting that no run can have.
    #[error("{setting}: {source}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What is wrong and what to do.
        source: WrongSetting,
    },
    /// An option that cannot be, or does not fit the others.
    #[error("{option}: {source}")]
    Usage {
        /// The option.
        option: &'static str,
        /// What is wrong and what to do.
        source: WrongOption,
    },
    /// A run of this name is there already.
    #[error("{} is there already: choose another --name, or go on with --resume", path.display())]
    RunExists {
        /// Its folder.
        path: PathBuf,
    },
    /// There is no model where one was expected.
    #[error("{} holds no model: {source}", path.display())]
    NoModel {
        /// The folder.
        path: PathBuf,
        /// Why, and what to do.
        source: NoModel,
    },
    /// A model that the command cannot work with.
    #[error("{}: {source}", path.display())]
    WrongModel {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        source: WrongModel,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Ctrl-C ended the run; everything is saved.
    #[error("interrupted after step {step}; all is saved, go on with: serpens train --resume {}", shell_word(&dir.to_string_lossy()))]
    Interrupted {
        /// Steps done.
        step: u64,
        /// The run's folder.
        dir: PathBuf,
    },
}

fn first_line(error: &toml::de::Error) -> &str {
    error.message().lines().next().unwrap_or_default()
}

impl Error {
    pub(crate) fn usage(option: &'static str, source: impl Into<WrongOption>) -> Self {
        let source = source.into();
        Error::Usage { option, source }
    }

    pub(crate) fn setting(setting: &'static str, source: impl Into<WrongSetting>) -> Self {
        let source = source.into();
        Error::Setting { setting, source }
    }

    pub(crate) fn wrong_model(path: impl Into<PathBuf>, source: impl Into<WrongModel>) -> Self {
        Error::WrongModel {
            path: path.into(),
            source: source.into(),
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// 130 after Ctrl-C, 2 for what was asked wrongly, 1 for what went wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted { .. } => 130,
            Error::UnknownRecipe { .. }
            | Error::UnknownKey { .. }
            | Error::Recipe { .. }
            | Error::Change { .. }
            | Error::Setting { .. }
            | Error::Usage { .. }
            | Error::RunExists { .. }
            | Error::Sample(serpens_ops::sample::SampleError::Option { .. })
            | Error::Train(serpens_train::Error::Config { .. }) => 2,
            Error::Train(serpens_train::Error::Model(error)) | Error::Model(error)
                if error.is_config() =>
            {
                2
            }
            Error::Data(
                serpens_data::Error::Size { .. }
                | serpens_data::Error::InvalidFraction { .. }
                | serpens_data::Error::MalformedGlob { .. },
            ) => 2,
            _ => 1,
        }
    }
}
