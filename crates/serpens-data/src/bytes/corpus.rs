//! All the bytes of a set of files, as if they were one.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::files::{self, Found};
use crate::error::{Error, Result};
use crate::source::Batch;

/// The most bytes that are held in memory: of small texts all.
const MOST_HELD: usize = 256 << 20;

/// The share of the corpus that is kept for validation unless set otherwise.
const VALIDATION_FRACTION: f64 = 0.1;

/// The two parts of a [`ByteCorpus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What the model learns from: everything before the validation bytes.
    Train,
    /// What the model is judged on: the end of the corpus.
    Validation,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::Validation => "validation",
        })
    }
}

/// The bytes of a file, of a folder or of the matches of a glob, one after the other in the order of their paths,
/// with nothing in between.
///
/// The first 256 MiB, in whole files, are held in memory. Of later files only what is asked for is read, so a corpus may
/// be larger than the memory, and cloning is cheap. They must stay what they are while in use: one that was cut short
/// or replaced is [`Error::Changed`] where it is read; one that has grown is read as far as it went before.
///
/// The last tenth of the whole is the validation part, the rest is the training part;
/// [`with_validation_fraction`](ByteCorpus::with_validation_fraction) moves the border.
#[derive(Debug, Clone)]
pub struct ByteCorpus {
    /// The bytes of the first files.
    held: Arc<Vec<u8>>,
    /// The files, with where each begins in the whole.
    files: Arc<[(usize, Found)]>,
    bytes: usize,
    validation_start: usize,
}

impl ByteCorpus {
    /// Opens what `pattern` names:
    ///
    /// - a file;
    /// - a folder: every file under it at any depth, sorted by path. Names that begin with a dot, empty files and
    ///   links to folders are passed over;
    /// - a glob (`*`, `?`, `[a-z]`, `**` for any depth): the files that match, sorted by path.
    ///
    /// # Errors
    /// [`MissingPath`](Error::MissingPath), [`Unreadable`](Error::Unreadable), [`NotAFile`](Error::NotAFile),
    /// [`EmptyFile`](Error::EmptyFile), [`EmptyFolder`](Error::EmptyFolder), [`NoMatch`](Error::NoMatch) and
    /// [`MalformedGlob`](Error::MalformedGlob).
    pub fn open(pattern: &str) -> Result<ByteCorpus> {
        let (mut held, mut files, mut bytes) = (Vec::new(), Vec::new(), 0);
        for found in files::find(pattern)? {
            let start = bytes;
            bytes += found.bytes as usize;
            if bytes <= MOST_HELD {
                held.resize(bytes, 0);
                found.read(0, &mut held[start..])?;
            }
            files.push((start, found));
        }
        ByteCorpus {
            held: held.into(),
            files: files.into(),
            bytes,
            validation_start: 0,
        }
        .with_validation_fraction(VALIDATION_FRACTION)
    }

    /// The same bytes with the last `fraction` of them (rounded down) for validation: 0 is none, 1 is all.
    ///
    /// # Errors
    /// [`InvalidFraction`](Error::InvalidFraction) outside 0..=1.
    pub fn with_validation_fraction(self, fraction: f64) -> Result<ByteCorpus> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::InvalidFraction(fraction));
        }
        let validation = (self.bytes as f64 * fraction) as usize;
        Ok(ByteCorpus {
            validation_start: self.bytes.saturating_sub(validation),
            ..self
        })
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Number of bytes of both parts together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of bytes of one part.
    pub fn split_bytes(&self, split: Split) -> usize {
        self.range(split).len()
    }

    /// Where a part lies in the whole.
    pub(super) fn range(&self, split: Split) -> std::ops::Range<usize> {
        match split {
            Split::Train => 0..self.validation_start,
            Split::Validation => self.validation_start..self.bytes,
        }
    }

    /// Appends a row, which the caller knows to be inside the corpus: the `length` bytes from `start` on are inputs,
    /// and those one later their targets. // (length)
    pub(super) fn push_row(&self, start: usize, length: usize, into: &mut Batch) -> Result<()> {
        let mut bytes = vec![0; length + 1];
        self.read(start, &mut bytes)?;
        let (inputs, targets) = (&bytes[..length], &bytes[1..]);
        into.inputs.extend(inputs.iter().copied().map(u32::from));
        into.targets.extend(targets.iter().copied().map(u32::from));
        Ok(())
    }

    /// Fills `into` with the bytes from `start` on, which the caller knows to be inside the corpus.
    fn read(&self, mut start: usize, mut into: &mut [u8]) -> Result<()> {
        if let Some(held) = self.held.get(start..) {
            let (now, later) = into.split_at_mut(held.len().min(into.len()));
            now.copy_from_slice(&held[..now.len()]);
            start += now.len();
            into = later;
        }
        let next = self.files.partition_point(|(from, _)| *from <= start);
        for (from, file) in &self.files[next.saturating_sub(1)..] {
            if into.is_empty() {
                break;
            }
            let skip = start - from;
            let (now, later) = into.split_at_mut((file.bytes as usize - skip).min(into.len()));
            file.read(skip as u64, now)?;
            start += now.len();
            into = later;
        }
        Ok(())
    }

    /// A fingerprint of the content, the XXH3-64 of its size, of all that is held in memory, and of 16 bytes at each of
    /// 64 places spread evenly over the whole: enough to notice another text, and beyond what is held another order of
    /// files, without reading it all.
    pub(super) fn fingerprint(&self) -> Result<u64> {
        let mut hash = XxHash3_64::new();
        hash.write(&(self.bytes as u64).to_le_bytes());
        hash.write(&self.held);
        let mut sample = [0; 16];
        let sample = &mut sample[..self.bytes.min(16)];
        let last = self.bytes - sample.len();
        for place in 0..64 {
            self.read((last as u128 * place / 63) as usize, sample)?;
            hash.write(sample);
        }
        Ok(hash.finish())
    }
}
