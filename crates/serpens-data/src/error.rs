//! Everything that can go wrong while reading, each in one line: what, where, what to do.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serpens_core::files::FileError;

use crate::{Split, TokenizerError};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong; each `Display` is a single line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path names nothing, and has no glob characters either.
    #[error("`{}` does not exist: give an existing file, a folder, or a quoted glob such as `texts/*.txt`", .0.display())]
    MissingPath(PathBuf),
    /// The path is a device, a pipe or a socket, whose bytes have no fixed places.
    #[error("`{}` is neither a file nor a folder: write its contents to a file first and give that", .0.display())]
    NotAFile(PathBuf),
    /// A file of an open corpus was cut short, or another one took its place.
    #[error("`{}` was cut short or replaced after it was opened: give a copy that stays as it is", .0.display())]
    Changed(PathBuf),
    /// A file without bytes, or a folder or a glob that leads to no file with any.
    #[error("`{}` holds no text: give a file with text in it, a folder with such files (hidden ones do not count), or a glob that matches some (`**` for all levels)", .0.display())]
    NoText(PathBuf),
    /// The glob cannot be parsed.
    #[error(
        "the glob `{pattern}` is malformed ({source}): correct it, or write `[*]` for a literal `*`"
    )]
    MalformedGlob {
        /// The glob as given.
        pattern: String,
        /// What the parser said.
        source: glob::PatternError,
    },
    /// A document that its tokenizer cannot read in blocks is too large for the memory.
    #[error("`{}` has a document of more than 256 MiB, which this tokenizer cannot read in blocks: cut it", .0.display())]
    LongDocument(PathBuf),
    /// A token file in the place of one of its texts.
    #[error("`{}` is one of the texts that are read: write to another file, outside their folder", .0.display())]
    OwnText(PathBuf),
    /// A line that is no document.
    #[error("`{}`, line {line} ({source}): write {{\"text\": …}}, or {{\"prompt\": …, \"completion\": …}}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// What a file holds is not what is read of it.
    #[error("`{}`{place}: {wrong}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in it, as `, line 7`.
        place: String,
        /// What is wrong there, and what to do.
        wrong: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is no place of labels.
    #[error(
        "labels: `{0}` is none of folder, file, a table that ends in .csv or .tsv, and a pattern with {{label}} such as {{label}}_{{group}}_*.wav"
    )]
    Labels(String),
    /// Fewer classes than can be told apart, or more than there are likely to be.
    #[error(
        "there are {0} classes{1}: say where the labels are, with --labels folder, file, TABLE.csv or a pattern such as {{label}}_*"
    )]
    Classes(usize, String),
    /// A group to hold out that there is not.
    #[error("there is no group `{0}` to hold out: there are {1}, …")]
    NoGroup(String, String),
    /// A class of which everything is held out.
    #[error("all of the class `{0}` is held out: hold out less, or give more files of it")]
    NothingToLearn(String),
    /// A token file that another tokenizer made.
    #[error("`{}` was made with another tokenizer: give that one, or make the file anew with `serpens tokenize`", .0.display())]
    OtherTokenizer(PathBuf),
    /// One of the corpus's two parts has fewer tokens than one window needs.
    #[error(
        "the {split} part has {available} tokens, but length {length} needs {needed}: give more text, lower the length, or change the validation fraction"
    )]
    TooShort {
        /// Which part.
        split: Split,
        /// Tokens there are.
        available: usize,
        /// Tokens that are needed.
        needed: usize,
        /// The length of a window.
        length: usize,
    },
    /// A size that its task is not defined for, or that cannot be represented.
    #[error("{place}: {name} is {got}: set it to {}", nearest(*got, allowed))]
    Size {
        /// The source that refused it.
        place: &'static str,
        /// The configuration's field or product of fields.
        name: &'static str,
        /// The value given (the largest possible one where it overflows).
        got: usize,
        /// The values allowed.
        allowed: RangeInclusive<usize>,
    },
    /// The validation fraction is not a share.
    #[error(
        "text: the validation fraction is {0}: set it between 0 (no validation) and 1 (nothing else)"
    )]
    InvalidFraction(f64),
    /// A tokenizer that cannot be, in this file.
    #[error("`{}`: {source}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// A text that a tokenizer does not read, or a model that it does not fit.
    #[error("the tokenizer: {0}")]
    Tokens(#[from] TokenizerError),
    /// A file or folder that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Metadata of a GGUF file that are of another type than the format says.
    #[error(transparent)]
    Metadata(Box<serpens_formats::Error>),
    /// The source behind a [`Prefetch`](crate::Prefetch) panicked.
    #[error("prefetch: the source panicked at batch {index}: {message}")]
    Panicked {
        /// The batch that was asked for.
        index: u64,
        /// What the panic said, on one line.
        message: String,
    },
    /// The system starts no thread for a [`Prefetch`](crate::Prefetch).
    #[error("prefetch: no thread could be started: {0}")]
    NoThread(#[source] io::Error),
    /// What a source of a program's own fails with.
    #[error("{0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<serpens_formats::Error> for Error {
    fn from(error: serpens_formats::Error) -> Self {
        Error::Metadata(error.into())
    }
}

impl Error {
    /// The error of a source of a program's own.
    pub fn other(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(source.into())
    }

    /// What is wrong with the tokenizer in this file, or with the file for it.
    pub(crate) fn of_tokenizer(path: &Path) -> impl Fn(TokenizerError) -> Self {
        move |source| Error::Tokenizer {
            path: path.to_owned(),
            source,
        }
    }
}

impl Error {
    /// What is wrong at a place (`, line 7`, or nothing) of this file.
    pub(crate) fn of_content(
        path: &Path,
        place: impl Into<String>,
        wrong: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::Content {
            path: path.to_owned(),
            place: place.into(),
            wrong: wrong.into(),
        }
    }
}

/// What somebody else's message says, on one line.
pub(crate) fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The end of the range that a size lies beyond, in words.
fn nearest(got: usize, allowed: &RangeInclusive<usize>) -> String {
    match got < *allowed.start() {
        true => format!("at least {}", allowed.start()),
        false => format!("at most {}", allowed.end()),
    }
}

/// Refuses a size outside `allowed`.
pub(crate) fn check_size(
    place: &'static str,
    name: &'static str,
    got: usize,
    allowed: RangeInclusive<usize>,
) -> Result<()> {
    match allowed.contains(&got) {
        true => Ok(()),
        false => Err(Error::Size {
            place,
            name,
            got,
            allowed,
        }),
    }
}

/// The most tokens one batch may have: 8 GiB of ids, far above what any model trains on at once.
const MOST_TOKENS: usize = 1 << 31;

/// Refuses batches without rows and batches too big to hold.
pub(crate) fn check_batch(place: &'static str, batch: usize, length: usize) -> Result<()> {
    check_size(place, "batch", batch, 1..=usize::MAX)?;
    let tokens = batch.saturating_mul(length);
    check_size(place, "batch × length", tokens, 0..=MOST_TOKENS)
}
