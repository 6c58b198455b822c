//! What can be wrong with a GGUF file.

/// Why a GGUF file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It begins otherwise.
    #[error("it does not begin with \"GGUF\"")]
    Magic,
    /// A version that is not read.
    #[error("it is of version {0}, and 2 and 3 are read: convert the model again")]
    Version(u32),
    /// Its numbers have their highest byte first.
    #[error("it is big-endian: convert the model again, little-endian")]
    BigEndian,
    /// A length or count says more than there is.
    #[error(
        "its header ends early (truncated, or a length or count in it is wrong; it has 64 MiB at most)"
    )]
    Truncated,
    /// A text is not UTF-8.
    #[error("a text of its header is not UTF-8")]
    Text,
    /// No type has this number.
    #[error("its metadata {key} is of the type {number}, which is unknown or an array of arrays")]
    Type {
        /// The key.
        key: String,
        /// The number.
        number: u32,
    },
    /// A key stands twice.
    #[error("its metadata {0} stands twice")]
    Key(String),
    /// The alignment is no power of two, or too large.
    #[error("its alignment is {0}, which is no power of two up to 65536")]
    Alignment(u32),
    /// No encoding has this number.
    #[error("tensor {name} is of the type {number}, which is unknown: convert the model again")]
    Encoding {
        /// The tensor.
        name: String,
        /// The number.
        number: u32,
    },
    /// Two tensors have one name.
    #[error("two tensors are called {0}")]
    Twice(String),
    /// A tensor's rows are no whole blocks, or its values are more than can be counted.
    #[error("tensor {0} has a shape that its type cannot have")]
    Shape(String),
    /// A tensor does not lie where it may.
    #[error(
        "tensor {0} lies beyond the file's end (truncated?), is not aligned, or overlaps another"
    )]
    Place(String),
}
