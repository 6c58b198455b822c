//! What can be wrong with a file of PyTorch's.

use serpens_core::MAX_RANK;
use zip::result::ZipError;

/// Why a file of PyTorch's is not read. Nothing of it was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A pickle without an archive around it, as PyTorch wrote before 1.6.
    #[error(
        "it has the form that PyTorch had before 1.6 (a bare pickle): write it again with torch.save(torch.load(PATH, weights_only=True), PATH)"
    )]
    Legacy,
    /// No zip, or a broken one.
    #[error("it is no whole zip archive ({0})")]
    Zip(#[from] ZipError),
    /// It has no pickle of tensors, or several.
    #[error("it has {0} data.pkl where PyTorch's files have one")]
    Pickles(usize),
    /// Two files of the archive have one name or the same bytes, or one lies beyond its end.
    #[error("files in its archive overlap, have one name, or lie beyond its end (truncated?)")]
    Overlap,
    /// A storage is missing, compressed or encrypted.
    #[error("its {0} is missing, compressed or encrypted, which PyTorch's files are not")]
    Storage(String),
    /// Its numbers have their highest byte first.
    #[error("its byte order is {0:?}: write it again on a little-endian machine")]
    ByteOrder(String),
    /// The pickle ends early, misuses its stack, or does what no pickle of Python's does.
    #[error("its pickle is broken at byte {at}, or asks there for an operation that is unknown")]
    Pickle {
        /// The place in the pickle.
        at: usize,
    },
    /// A tensor is to be made by something unknown.
    #[error(
        "tensor {name} is to be made by {maker}, which is not known in this form and was not called: save plain tensors, as model.state_dict() gives"
    )]
    Unknown {
        /// The tensor.
        name: String,
        /// The function or class in Python.
        maker: String,
    },
    /// Nothing in it is a tensor.
    #[error("it holds no tensors by name{}: save model.state_dict()", match .0 {
        Some(maker) => format!(", but asks for {maker}, which is not known and was not called"),
        None => String::new(),
    })]
    Empty(
        /// The first function or class that it asks for, and that is not known.
        Option<String>,
    ),
    /// No tensor has a name under the prefix.
    #[error("it holds no tensor under the prefix {prefix:?}; one that it holds is {other}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// A tensor that is there.
        other: String,
    },
    /// Two tensors have one name.
    #[error("two of its tensors are called {0}")]
    Twice(String),
    /// Dictionaries hold themselves, or each other so many times that their names have no end.
    #[error("its dictionaries hold each other many times over")]
    Names,
    /// A tensor has other values than its storage has, or too many axes.
    #[error(
        "tensor {0} lies beyond its storage, repeats its values, or has more than {MAX_RANK} axes"
    )]
    View(String),
}
