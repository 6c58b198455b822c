//! What can go wrong with files of tensors.

use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use serpens_core::Shape;
use serpens_core::files::FileError;
use zip::result::ZipError;

use crate::{Encoding, Unwritable, gguf, pytorch};

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
    /// A file of PyTorch's is broken, or asks for what is not done.
    #[error("{} is not a usable file of PyTorch's: {source}", path.display())]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<pytorch::Fault>,
    },
    /// A GGUF file is broken, or of a kind that is not read.
    #[error("{} is not a usable GGUF file: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: gguf::Fault,
    },
    /// A GGUF file says nothing under a key, or something of another type.
    #[error("{}: its metadata {key} {}", path.display(), match found {
        Some(found) => format!("is of the type {found}, not {wanted}"),
        None => format!("({wanted}) is missing"),
    })]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type that was asked for.
        wanted: &'static str,
        /// The type that is there.
        found: Option<&'static str>,
    },
    /// A tensor cannot be written as planned.
    #[error("{}: tensor {name} of shape {shape} cannot be written as {encoding}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its planned shape.
        shape: Box<Shape>,
        /// Its planned encoding.
        encoding: Encoding,
        /// Why.
        source: Unwritable,
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
    /// A tensor's encoding is none that is read.
    #[error("{}: tensor {name} is stored as {found}, which is not read: convert it to F32, F16, BF16, F64, U32, Q8_0, Q4_0, Q4_K or Q6_K", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its encoding.
        found: Encoding,
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
    pub(crate) fn pytorch(path: &Path) -> impl Fn(pytorch::Fault) -> Self {
        move |source| match source {
            pytorch::Fault::Zip(ZipError::Io(e)) if e.raw_os_error().is_some() => {
                FileError::of("read", path)(e).into()
            }
            source => Error::PyTorch {
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }
}
