//! The tokens of a set of files, as if they were one: their bytes, or what a tokenizer makes of them.

mod documents;
mod files;
mod slices;
mod token_file;
mod windows;

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use twox_hash::XxHash3_64;

pub use slices::Slices;
pub use token_file::{Counts, tokenize};
pub use windows::CorpusSource;

use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::source::{Batch, IGNORE};
use files::Found;
use token_file::{HEADER, ID, SILENT, START, WORD};

/// The most bytes that are held in memory: of small texts all.
const MOST_HELD: usize = 256 << 20;

/// The share of the corpus that is kept for validation unless set otherwise.
const VALIDATION_FRACTION: f64 = 0.1;

/// The two parts of a [`Corpus`].
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

/// The tokens of a file, of a folder or of the matches of a glob, one after the other in the order of their paths.
///
/// Of the tokenizer of bytes they are the files' bytes, with nothing in between, unless a file's name ends in `.jsonl`.
/// Otherwise they are those of documents, each of which starts anew: a file, or of a `.jsonl` file every line;
/// [`tokenize`] says what lines may hold. Texts of up to 256 MiB are encoded when they are opened; for larger ones, and
/// in order not to wait each time, [`tokenize`] makes a token file, which is opened as they are.
///
/// The first 256 MiB, in whole files, are held in memory. Of later files only what is asked for is read, so a corpus
/// may be larger than the memory, and cloning is cheap. They must stay what they are while in use: one that was cut
/// short or replaced is [`Error::Changed`] where it is read; one that has grown is read as far as it went before.
///
/// The last tenth of the whole is the validation part, the rest is the training part;
/// [`with_validation_fraction`](Corpus::with_validation_fraction) moves the border.
#[derive(Debug, Clone)]
pub struct Corpus {
    tokenizer: Tokenizer,
    /// The bytes of the first files, or those of the token file that there would be.
    held: Arc<Vec<u8>>,
    /// The files, with where each begins in the whole.
    files: Arc<[(usize, Found)]>,
    /// What there is in a token file, where tokens are its words; otherwise they are bytes.
    counts: Option<Counts>,
    tokens: usize,
    validation_start: usize,
}

impl Corpus {
    /// Opens what `pattern` names:
    ///
    /// - a file;
    /// - a folder: every file under it at any depth, sorted by path. Names that begin with a dot, empty files and
    ///   links to folders are passed over;
    /// - a glob (`*`, `?`, `[a-z]`, `**` for any depth): the files that match, sorted by path.
    ///
    /// # Errors
    /// [`MissingPath`](Error::MissingPath), [`File`](Error::File), [`NotAFile`](Error::NotAFile),
    /// [`NoText`](Error::NoText), [`MalformedGlob`](Error::MalformedGlob); those of [`tokenize`] where a text is
    /// encoded, and [`TooLarge`](Error::TooLarge); [`OtherTokenizer`](Error::OtherTokenizer) of a token file.
    pub fn open(pattern: &str, tokenizer: &Tokenizer) -> Result<Corpus> {
        let all = files::find(pattern)?;
        let mut counts = match &all[..] {
            [one] => token_file::counts(one, tokenizer)?,
            _ => None,
        };
        let any_lines = all.iter().any(documents::are_lines);
        let encoded = counts.is_none() && (any_lines || !tokenizer.is_bytes());
        let (mut held, mut files, mut bytes) = (Vec::new(), Vec::new(), 0);
        if encoded {
            let text: u64 = all.iter().map(|found| found.bytes).sum();
            if text > MOST_HELD as u64 {
                return Err(Error::TooLarge(pattern.into()));
            }
            held.resize(HEADER, 0);
            let put = &mut |words: &[u8]| {
                held.extend_from_slice(words);
                Ok(())
            };
            let made = token_file::encode(&all, tokenizer, put, &mut |_| Ok::<_, Error>(()))?;
            held[..HEADER].copy_from_slice(&token_file::header(tokenizer, made));
            counts = Some(made);
        }
        for found in all {
            let start = bytes;
            bytes += found.bytes as usize;
            if bytes <= MOST_HELD && !encoded {
                held.resize(bytes, 0);
                found.read(0, &mut held[start..])?;
            }
            files.push((start, found));
        }
        Corpus {
            tokenizer: tokenizer.clone(),
            held: held.into(),
            files: files.into(),
            tokens: counts.map_or(bytes, |counts| counts.tokens),
            counts,
            validation_start: 0,
        }
        .with_validation_fraction(VALIDATION_FRACTION)
    }

    /// The same tokens with the last `fraction` of them (rounded down) for validation: 0 is none, 1 is all.
    ///
    /// # Errors
    /// [`InvalidFraction`](Error::InvalidFraction) outside 0..=1.
    pub fn with_validation_fraction(self, fraction: f64) -> Result<Corpus> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::InvalidFraction(fraction));
        }
        let validation = (self.tokens as f64 * fraction) as usize;
        Ok(Corpus {
            validation_start: self.tokens.saturating_sub(validation),
            ..self
        })
    }

    /// What made tokens of the text.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Number of tokens of both parts together.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of text that a token stands for, on average.
    pub fn bytes_per_token(&self) -> f64 {
        let of = |counts: Counts| counts.bytes as f64 / counts.tokens as f64;
        self.counts.map_or(1.0, of)
    }

    /// Number of tokens of one part.
    pub fn split_tokens(&self, split: Split) -> usize {
        self.range(split).len()
    }

    /// Where a part lies in the whole.
    fn range(&self, split: Split) -> std::ops::Range<usize> {
        match split {
            Split::Train => 0..self.validation_start,
            Split::Validation => self.validation_start..self.tokens,
        }
    }

    /// Refuses a part that has fewer tokens than are needed for rows of this length.
    fn check_length(&self, split: Split, needed: usize, length: usize) -> Result<()> {
        let available = self.split_tokens(split);
        match available < needed {
            true => Err(Error::TooShort {
                split,
                available,
                needed,
                length,
            }),
            false => Ok(()),
        }
    }

    /// Where the bytes of a token begin.
    fn place(&self, token: usize) -> usize {
        self.counts.map_or(token, |_| HEADER + token * WORD)
    }

    /// Appends a row, which the caller knows to be inside the corpus: the `length` tokens from `start` on are inputs,
    /// and those one later their targets, unless they start a document or are given with it. // (length)
    fn push_row(&self, start: usize, length: usize, into: &mut Batch) -> Result<()> {
        let [begin, end] = [start, start + length + 1].map(|token| self.place(token));
        let mut bytes = vec![0; end - begin];
        self.read(begin, &mut bytes)?;
        let words: Vec<u32> = match self.counts {
            None => bytes.into_iter().map(u32::from).collect(),
            Some(_) => {
                let words = bytes.as_chunks().0.iter();
                words.copied().map(u32::from_le_bytes).collect()
            }
        };
        let (inputs, targets) = (&words[..length], &words[1..]);
        if self.counts.is_some() {
            let starts = into.starts.get_or_insert_default();
            starts.extend(inputs.iter().map(|word| word & START != 0));
        }
        into.inputs.extend(inputs.iter().map(|word| word & ID));
        let learnt = |word: &u32| match word & (START | SILENT) {
            0 => *word,
            _ => IGNORE,
        };
        into.targets.extend(targets.iter().map(learnt));
        Ok(())
    }

    /// Fills `into` with the bytes from `start` on, which the caller knows to be inside the corpus.
    fn read(&self, start: usize, into: &mut [u8]) -> Result<()> {
        let end = start + into.len();
        if let Some(held) = self.held.get(start..end) {
            into.copy_from_slice(held);
            return Ok(());
        }
        let next = self.files.partition_point(|(from, _)| *from <= start);
        let files = self.files[next.saturating_sub(1)..].iter();
        for (from, file) in files.take_while(|(from, _)| *from < end) {
            let here = start.max(*from)..end.min(from + file.bytes as usize);
            let into = &mut into[here.start - start..here.end - start];
            file.read((here.start - from) as u64, into)?;
        }
        Ok(())
    }

    /// A fingerprint of the content, the XXH3-64 of its size, of all that is held in memory, and of 16 bytes at each of
    /// 64 places spread evenly over the whole: enough to notice another text, and beyond what is held another order of
    /// files, without reading it all.
    fn fingerprint(&self) -> Result<u64> {
        let mut hash = XxHash3_64::new();
        let bytes = self.place(self.tokens);
        hash.write(&(bytes as u64).to_le_bytes());
        hash.write(&self.held);
        let mut sample = [0; 16];
        let sample = &mut sample[..bytes.min(16)];
        let last = bytes - sample.len();
        for place in 0..64 {
            self.read((last as u128 * place / 63) as usize, sample)?;
            hash.write(sample);
        }
        Ok(hash.finish())
    }
}
