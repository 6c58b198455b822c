//! What can go wrong with layers, models and their checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use serpens_core::Shape;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a layer, a model or a checkpoint. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A file of tensors cannot be read or written.
    #[error(transparent)]
    Format(#[from] serpens_formats::Error),
    /// A configuration that no model can have.
    #[error("{field} = {value} is not possible: {reason}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A layer that cannot do this.
    #[error("{layer} cannot {what}")]
    Unsupported {
        /// The layer.
        layer: &'static str,
        /// What was asked of it.
        what: &'static str,
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
    /// A file is not what its name says.
    #[error("{} is not a usable {kind}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A parameter that the model has is not in the checkpoint.
    #[error("{}: parameter {name} is missing; the checkpoint belongs to another configuration", path.display())]
    MissingParameter {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
    },
    /// A parameter of the checkpoint that the model has not.
    #[error("{}: parameter {name} has no place in this model; the checkpoint belongs to another configuration", path.display())]
    SurplusParameter {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
    },
    /// A parameter has another shape in the checkpoint than in the model.
    #[error("{}: parameter {name} has shape {got}, the model needs {expected}", path.display())]
    ParameterShape {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
        /// The model's shape.
        expected: Box<Shape>,
        /// The checkpoint's shape.
        got: Box<Shape>,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The same as an error of an operation, for what runs inside one.
    pub fn into_core(self) -> serpens_core::Error {
        match self {
            Error::Core(error) => error,
            other => serpens_core::Error::argument("block", other.to_string()),
        }
    }
}
