//! Everything that can go wrong while reading, each in one line: what, where, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// The two parts of a [`ByteCorpus`](crate::ByteCorpus).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What the model learns from: everything before the validation part.
    Train,
    /// What the model is judged on: the end of the corpus.
    Validation,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Train => "training",
            Part::Validation => "validation",
        })
    }
}

/// What can go wrong; each `Display` is a single line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path names nothing, and has no glob characters either.
    #[error("`{}` does not exist: give an existing file, a folder, or a quoted glob such as `texts/*.txt`", path.display())]
    MissingPath {
        /// The path as given.
        path: PathBuf,
    },
    /// The system refused to open, list or map a path.
    #[error("cannot read `{}` ({cause}): check that it still exists and that this user may read it", path.display())]
    Unreadable {
        /// The file or folder concerned.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The path is a device, a pipe or a socket, whose bytes have no fixed places.
    #[error("`{}` is neither a file nor a folder: write its contents to a file first and give that", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The file exists but holds no bytes.
    #[error("`{}` is empty: give a file with text in it", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// No visible file with anything in it lies under the folder.
    #[error("the folder `{}` holds no file with anything in it: put text there or give another folder (hidden files do not count)", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The glob matches no file, or only empty ones.
    #[error(
        "the glob `{pattern}` matches no file with anything in it: check the folder and the ending, or use `**` for all levels"
    )]
    NoMatch {
        /// The glob as given.
        pattern: String,
    },
    /// The glob cannot be parsed.
    #[error(
        "the glob `{pattern}` is malformed ({cause}): correct it, or write `[*]` for a literal `*`"
    )]
    MalformedGlob {
        /// The glob as given.
        pattern: String,
        /// What the parser said.
        cause: glob::PatternError,
    },
    /// Part of the corpus has fewer bytes than one window needs.
    #[error(
        "the {part} part has {available} bytes, but length {length} needs {needed}: give more text, lower the length, or change the validation fraction"
    )]
    TooShort {
        /// Which part.
        part: Part,
        /// Bytes there are.
        available: usize,
        /// Bytes that are needed.
        needed: usize,
        /// The length of a window.
        length: usize,
    },
    /// A size below what its task is defined for.
    #[error("{place}: {name} is {got}: set it to at least {least}")]
    TooSmall {
        /// The source that refused it.
        place: &'static str,
        /// The configuration's field.
        name: &'static str,
        /// The value given.
        got: usize,
        /// The smallest value allowed.
        least: usize,
    },
    /// A size above what can be represented.
    #[error("{place}: {name} is {got}: set it to at most {most}")]
    TooLarge {
        /// The source that refused it.
        place: &'static str,
        /// The configuration's field or product of fields.
        name: &'static str,
        /// The value given (the largest possible one where it overflows).
        got: usize,
        /// The largest value allowed.
        most: usize,
    },
    /// The validation fraction is not a share.
    #[error(
        "bytes: the validation fraction is {got}: set it between 0 (no validation) and 1 (nothing else)"
    )]
    InvalidFraction {
        /// The value given.
        got: f64,
    },
    /// A position was taken from a stream of another configuration, seed or text.
    #[error(
        "the saved position belongs to `{saved}`, but this source is `{here}`: use the same settings, seed and text, or start afresh"
    )]
    OtherStream {
        /// What the position was taken from.
        saved: String,
        /// What it was given to.
        here: String,
    },
    /// The source behind a [`Prefetch`](crate::Prefetch) is lost.
    #[error(
        "prefetch: reading ahead has stopped ({reason}): start again from the last saved position"
    )]
    PrefetchStopped {
        /// Why: the panic's message, or the system's reason for starting no thread.
        reason: String,
    },
}

/// Refuses a size below `least`.
pub(crate) fn at_least(
    place: &'static str,
    name: &'static str,
    got: usize,
    least: usize,
) -> Result<()> {
    if got < least {
        return Err(Error::TooSmall {
            place,
            name,
            got,
            least,
        });
    }
    Ok(())
}

/// Refuses a size above `most`.
pub(crate) fn at_most(
    place: &'static str,
    name: &'static str,
    got: usize,
    most: usize,
) -> Result<()> {
    if got > most {
        return Err(Error::TooLarge {
            place,
            name,
            got,
            most,
        });
    }
    Ok(())
}

/// The most tokens one batch may have: 8 GiB of ids, far above what any model trains on at once.
const MOST_TOKENS: usize = 1 << 31;

/// Refuses batches without rows and batches too big to hold.
pub(crate) fn check_batch(place: &'static str, batch: usize, length: usize) -> Result<()> {
    at_least(place, "batch", batch, 1)?;
    at_most(
        place,
        "batch × length",
        batch.saturating_mul(length),
        MOST_TOKENS,
    )
}
