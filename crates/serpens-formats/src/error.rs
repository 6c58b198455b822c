//! What can go wrong with files of tensors.

use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::Dtype;
use serpens_core::files::FileError;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a file of tensors. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor cannot be made or copied.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A file's header is broken, or the file is shorter than it says.
    #[error("{} is not a usable safetensors file (truncated or not one): {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafeTensorError,
    },
    /// A file of settings is broken, or says something else.
    #[error("{} is not a usable {what}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        what: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An index of weights names no file, or one that does not lie in its folder.
    #[error("{} {}", path.display(), match outside {
        Some(file) => format!("names {file:?}, which does not lie in its folder"),
        None => "names no file of weights".into(),
    })]
    Index {
        /// The index.
        path: PathBuf,
        /// The file outside.
        outside: Option<String>,
    },
    /// A tensor's bytes are not those that were written.
    #[error("{}: tensor {name} is damaged (its digest is {found}, not {expected}): take another copy of the file, or read it without verifying", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The digest that the file says it has.
        expected: String,
        /// Its digest.
        found: String,
    },
    /// A file has no tensor of this name.
    #[error("{} holds no tensor {name}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor's type is none that is read.
    #[error("{}: tensor {name} is {found}; F32, BF16, F16 and U32 are known", path.display())]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// A tensor has more axes than any here.
    #[error("{}: tensor {name} has {found} axes; {} at most are known", path.display(), serpens_core::MAX_RANK)]
    Rank {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its axes.
        found: usize,
    },
}

impl Error {
    pub(crate) fn safetensors(path: &Path) -> impl FnOnce(SafeTensorError) -> Self {
        move |source| match source {
            SafeTensorError::IoError(e) if e.raw_os_error().is_some() => {
                FileError::of("read", path)(e).into()
            }
            source => Error::Safetensors {
                path: path.to_owned(),
                source,
            },
        }
    }
}
