//! All the bytes of a set of files, as if they were one.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::files::{self, Found, unreadable};
use super::slices::ByteSlices;
use crate::error::{Error, Part, Result};

/// Files below this size are read and joined, larger ones mapped: a folder of source code has more files than a
/// process may have mappings (65530 on Linux), and each mapping costs whole pages.
const LEAST_MAPPED: u64 = 64 * 1024;

/// The share of the corpus that is kept for validation unless set otherwise.
const VALIDATION_FRACTION: f64 = 0.1;

/// The bytes of a file, of a folder or of the matches of a glob, one after the other in the order of their paths,
/// with nothing in between.
///
/// Large files are mapped into memory, so a corpus may be larger than the memory, and cloning is cheap. The files
/// must not be changed while in use: a mapped file that is cut short ends the process (SIGBUS) when the missing
/// bytes are read.
///
/// The last tenth of the whole is the validation part, the rest is the training part;
/// [`with_validation_fraction`](ByteCorpus::with_validation_fraction) moves the border.
#[derive(Debug, Clone)]
pub struct ByteCorpus {
    pieces: Arc<[Piece]>,
    bytes: usize,
    validation_start: usize,
}

#[derive(Debug)]
struct Piece {
    start: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Mapped(map) => map,
            Content::Read(bytes) => bytes,
        }
    }
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
        let mut contents: Vec<Content> = Vec::new();
        for Found { path, bytes } in files::find(pattern)? {
            if bytes >= LEAST_MAPPED {
                contents.push(Content::Mapped(map(&path)?));
                continue;
            }
            let content = fs::read(&path).map_err(unreadable(&path))?;
            match contents.last_mut() {
                Some(Content::Read(joined)) => joined.extend(content),
                _ => contents.push(Content::Read(content)),
            }
        }
        let mut bytes = 0;
        let mut pieces = Vec::with_capacity(contents.len());
        for content in contents {
            let start = bytes;
            bytes += content.bytes().len();
            pieces.push(Piece { start, content });
        }
        ByteCorpus {
            pieces: pieces.into(),
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
            return Err(Error::InvalidFraction { got: fraction });
        }
        let validation = (self.bytes as f64 * fraction) as usize;
        Ok(ByteCorpus {
            validation_start: self.bytes.saturating_sub(validation),
            ..self
        })
    }

    /// Number of bytes of both parts together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of bytes of one part.
    pub fn part_bytes(&self, part: Part) -> usize {
        self.range(part).len()
    }

    /// Where a part lies in the whole.
    pub(super) fn range(&self, part: Part) -> std::ops::Range<usize> {
        match part {
            Part::Train => 0..self.validation_start,
            Part::Validation => self.validation_start..self.bytes,
        }
    }

    /// The validation part in order, in windows of one row and `length` bytes, the last one shorter: every byte of
    /// the part is a target exactly once. // (1, length)
    ///
    /// The input before the first target is the last byte of the training part (where that part is empty, the
    /// very first byte can only be an input).
    ///
    /// # Errors
    /// As [`ByteCorpus::slices`].
    pub fn validation_windows(&self, length: usize) -> Result<ByteSlices> {
        self.slices(Part::Validation, 1, length)
    }

    /// A part in order, for models that carry their state from batch to batch. // (batch, length)
    ///
    /// The part is cut into `batch` stretches of equal length; row `b` walks along stretch `b`, and every batch
    /// goes on where the one before it ended. Every byte of the part (but the first byte of the whole corpus,
    /// which nothing precedes) is a target exactly once. The last batch is shorter than `length`, and where the
    /// later stretches end early their rows are filled up with input 0 and target [`IGNORE`](crate::IGNORE).
    ///
    /// # Errors
    /// [`TooSmall`](Error::TooSmall) for an empty batch or length, [`TooLarge`](Error::TooLarge) for sizes
    /// beyond memory, [`TooShort`](Error::TooShort) if the part holds nothing to predict.
    pub fn slices(&self, part: Part, batch: usize, length: usize) -> Result<ByteSlices> {
        ByteSlices::new(self.clone(), part, batch, length)
    }

    /// Fills `into` with the bytes from `start` on, which the caller knows to be inside the corpus.
    pub(super) fn read(&self, start: usize, mut into: &mut [u8]) {
        let first = self.pieces.partition_point(|piece| piece.start <= start) - 1;
        let mut skip = start - self.pieces[first].start;
        for piece in &self.pieces[first..] {
            let available = &piece.content.bytes()[skip..];
            let (now, later) = into.split_at_mut(available.len().min(into.len()));
            now.copy_from_slice(&available[..now.len()]);
            if later.is_empty() {
                return;
            }
            into = later;
            skip = 0;
        }
    }

    /// A fingerprint of the content: its size and 16 bytes at each of 64 places spread evenly over it, enough to
    /// notice another text or another order of files without reading it all.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325; // FNV-1a
        let mut absorb = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        (self.bytes as u64)
            .to_le_bytes()
            .into_iter()
            .for_each(&mut absorb);
        let mut sample = [0; 16];
        let sample = &mut sample[..self.bytes.min(16)];
        let last = self.bytes - sample.len();
        for place in 0..64 {
            self.read((last as u128 * place / 63) as usize, sample);
            sample.iter().copied().for_each(&mut absorb);
        }
        hash
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(unreadable(path))?;
    // SAFETY: the map is private and only read, as plain bytes for which every value is valid; that the file is
    // not changed meanwhile is the condition stated at `ByteCorpus`.
    unsafe { Mmap::map(&file) }.map_err(unreadable(path))
}
