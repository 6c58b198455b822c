//! What can go wrong with files of tensors.

use std::io;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use serpens_core::files::FileError;
use serpens_core::{DType, MAX_RANK, Shape};
use zip::result::ZipError;

use crate::Encoding;

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
    /// A file is broken, says something else, or is of a kind that is not read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Fault,
    },
}

/// What is wrong with a file. Nothing of it was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A header of safetensors is broken, or the file is shorter than it says.
    #[error("it is no usable safetensors file (truncated or not one): {0}")]
    Safetensors(#[from] SafeTensorError),
    /// No zip, or a broken one.
    #[error("it is no whole zip archive ({0})")]
    Zip(#[source] Box<ZipError>),
    /// It is not what it was to be, such as a model configuration.
    #[error("it is no usable {0}: {1}")]
    Json(&'static str, #[source] serde_json::Error),
    /// An index of weights names no file.
    #[error("it names no file of weights")]
    NoWeights,
    /// An index of weights names a file that does not lie in its folder.
    #[error("it names {0:?}, which does not lie in its folder")]
    Outside(String),
    /// The system does not read the header, a length or count says more than there is, or a text is not UTF-8.
    #[error("its header cannot be read (truncated, of another format, or over 64 MiB): {0}")]
    Header(#[from] io::Error),
    /// A GGUF file begins otherwise.
    #[error("it is no GGUF file: it does not begin with \"GGUF\"")]
    Magic,
    /// A version of GGUF that is not read.
    #[error("it is of GGUF's version {0}, and 2 and 3 are read: convert the model again")]
    Version(u32),
    /// Numbers have their highest byte first.
    #[error("its numbers are not little-endian: convert the model again, little-endian")]
    BigEndian,
    /// No type of metadata has this number.
    #[error("its metadata {0} is of the type {1}, which is unknown or an array of arrays")]
    Type(String, u32),
    /// A key of metadata stands twice.
    #[error("its metadata {0} stands twice")]
    Key(String),
    /// Nothing stands under a key of metadata, where such a type was asked for.
    #[error("its metadata {0} ({1}) is missing")]
    MissingKey(String, String),
    /// Under a key of metadata stands something of the first type, not of the second.
    #[error("its metadata {0} is of the type {1}, not {2}")]
    OtherType(String, String, String),
    /// The alignment is no power of two, or too large.
    #[error("its alignment is {0}, which is no power of two up to 65536")]
    Alignment(u32),
    /// A pickle without an archive around it, as PyTorch wrote before 1.6.
    #[error(
        "it has the form that PyTorch had before 1.6 (a bare pickle): write it again with torch.save(torch.load(PATH, weights_only=True), PATH)"
    )]
    Legacy,
    /// It has no pickle of tensors, or several.
    #[error("it has {0} data.pkl where PyTorch's files have one")]
    Pickles(usize),
    /// Two files of the archive have one name or the same bytes, or one lies beyond its end.
    #[error("files in its archive overlap, have one name, or lie beyond its end (truncated?)")]
    Overlap,
    /// A storage is missing, compressed or encrypted.
    #[error("its {0} is missing, compressed or encrypted, which PyTorch's files are not")]
    Storage(String),
    /// The pickle ends early, misuses its stack, or does what no pickle of Python's does, at this byte.
    #[error("its pickle is broken at byte {0}, or asks there for an operation that is unknown")]
    Pickle(usize),
    /// Nothing in it is a tensor; the first function or class that it asks for, and that is not known.
    #[error("it holds no tensors by name{}: save model.state_dict()", match .0 {
        Some(maker) => format!(", but asks for {maker}, which is not known and was not called"),
        None => String::new(),
    })]
    Empty(Option<String>),
    /// No tensor has a name under the prefix, but one is there.
    #[error("it holds no tensor under the prefix {0:?}; one that it holds is {1}")]
    Prefix(String, String),
    /// Dictionaries hold themselves, or each other so many times that their names have no end.
    #[error("its dictionaries hold each other many times over")]
    Names,
    /// There is no tensor of this name.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// Two tensors are called so.
    #[error("tensor {0} stands there twice")]
    Twice(String),
    /// A tensor's bytes are not those that were written: its digest is the first, where the file says the second.
    #[error("tensor {0} is damaged (digest {1}, not {2}): take another copy, or --no-verify")]
    Digest(String, String, String),
    /// A tensor's encoding is none that is read.
    #[error("tensor {0} is stored as {1}, which is not read: convert it to F32, F16, BF16 or Q8_0")]
    Encoding(String, Encoding),
    /// No encoding of GGUF has a tensor's number.
    #[error("tensor {0} is of the type {1}, which is unknown: convert the model again")]
    Number(String, u32),
    /// A tensor has more axes than any here.
    #[error("tensor {0} has {1} axes; {MAX_RANK} at most are known")]
    Rank(String, usize),
    /// A tensor does not lie where it may.
    #[error(
        "tensor {0} lies beyond the file's end (truncated?), is not aligned, or overlaps another"
    )]
    Place(String),
    /// A tensor has other values than its storage has, or too many axes.
    #[error("tensor {0} lies beyond its storage, repeats its values, or has over {MAX_RANK} axes")]
    View(String),
    /// A tensor is to be made by this function or class of Python's.
    #[error("tensor {0} is made by {1}, unknown in this form and not called: save a state_dict()")]
    Maker(String, String),
    /// A tensor's rows are no whole blocks.
    #[error("tensor {0} of shape {1} has no rows of whole blocks of {2}: choose F16 or F32")]
    Columns(String, Box<Shape>, Encoding),
    /// A tensor cannot be stored so: a value cannot be held.
    #[error("tensor {0} has NaN, infinite or too large values for {1}: choose BF16 or F32")]
    Value(String, Encoding),
    /// A tensor was planned otherwise than its value is, which has this shape and type.
    #[error("tensor {0} cannot be stored as planned: it has the shape {1} and is of type {2}")]
    Unplanned(String, Box<Shape>, DType),
    /// The format knows no such encoding, or no tensors of so many axes.
    #[error(
        "tensor {0} cannot be stored in this format: it knows no {1}, or no tensors of so many axes"
    )]
    Format(String, Encoding),
}

impl Error {
    /// The error of a file of which this is wrong.
    pub(crate) fn at(path: &Path) -> impl Fn(Fault) -> Self {
        move |source| Error::File {
            path: path.to_owned(),
            source,
        }
    }
}

impl From<ZipError> for Fault {
    fn from(error: ZipError) -> Self {
        Fault::Zip(Box::new(error))
    }
}
