//! The tokens of a set of files, as if they were one: their bytes, or what a tokenizer makes of them.

mod asked;
mod slices;
mod token_file;
mod windows;

use std::fmt;
use std::sync::Arc;

pub(crate) use asked::{Asked, of_stretch};
pub use slices::Slices;
pub use token_file::{Counts, tokenize};
pub use windows::CorpusSource;

use crate::Tokenizer;
use crate::content::{Content, text};
use crate::error::{Error, Result};
use crate::files::Found;
use crate::source::{Batch, IGNORE};
use crate::store::{MOST_HELD, Store, fingerprint};
use token_file::{Encoded, HEADER, ID, SILENT, START, Width};

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
/// Of texts and the tokenizer of bytes they are the files' bytes, with nothing in between, unless a file's name ends in
/// `.jsonl` or it is compressed. Otherwise they are those of documents, each of which starts anew; [`tokenize`] says
/// what they are. They are encoded when the corpus is opened; in order not to wait each time, [`tokenize`] makes a
/// token file, which is opened as they are.
///
/// Of plain bytes and of a token file the first 256 MiB, in whole files, are held in memory. Of later files only what
/// is asked for is read, so a corpus may be larger than the memory, and cloning is cheap. They must stay what they are
/// while in use: one that was cut short or replaced is [`Error::Changed`] where it is read; one that has grown is read
/// as far as it went before. Of what was encoded 256 MiB are held, and the rest is in a temporary file (where `TMPDIR`
/// says), a byte or two for each token of a small vocabulary.
///
/// The last tenth of the whole is the validation part, or the records that are held out for it; the rest is the training
/// part. [`with_validation_fraction`](Corpus::with_validation_fraction) moves the border.
#[derive(Debug, Clone)]
pub struct Corpus {
    tokenizer: Tokenizer,
    /// The bytes of the first files, or those of the token file that there would be.
    store: Arc<Store>,
    /// The files, with where each begins in the whole.
    files: Arc<[(usize, Found)]>,
    /// What there is in a token file, where tokens are its words; otherwise they are bytes.
    counts: Option<(Counts, Width)>,
    tokens: usize,
    validation_start: usize,
}

impl Corpus {
    /// Opens what `pattern` names:
    ///
    /// - a file;
    /// - a folder: every file under it at any depth, sorted by path. Names that begin with a dot, empty files and
    ///   links to folders are passed over;
    ///   Of other content than text, those whose names tell of it, where there are such;
    /// - a glob (`*`, `?`, `[a-z]`, `**` for any depth): the files that match, sorted by path.
    ///
    /// Records of the names in `hold_out` are the validation part: they come last. A file is a record of its own name
    /// where its content does not name several. Of several records of one name all are held out.
    ///
    /// `watch` hears how many bytes of how many are read, where something is encoded (compressed files as they are; all
    /// files count twice where records are held out); its error ends the work.
    ///
    /// # Errors
    /// [`MissingPath`](Error::MissingPath), [`File`](Error::File), [`NotAFile`](Error::NotAFile),
    /// [`NoText`](Error::NoText), [`MalformedGlob`](Error::MalformedGlob); where something is encoded
    /// [`Tokenizer`](Error::Tokenizer) for what the tokenizer does not read, [`Line`](Error::Line),
    /// [`LongDocument`](Error::LongDocument), and [`Content`](Error::Content), also for names that no record has;
    /// [`OtherTokenizer`](Error::OtherTokenizer) of a token file.
    pub fn open<E: From<Error>>(
        pattern: &str,
        content: &Content,
        tokenizer: &Tokenizer,
        hold_out: &[String],
        watch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<Corpus, E> {
        let all = content.find(pattern)?;
        let made = match &all[..] {
            [one] => token_file::counts(one, tokenizer)?,
            _ => None,
        };
        if made.is_some() && !hold_out.is_empty() {
            let wrong = "a token file has no names of records to hold out: give the files that it was made of";
            return Err(Error::of_content(&all[0].path, "", wrong).into());
        }
        let plain = || Ok::<_, Error>(hold_out.is_empty() && are_plain(&all, content, tokenizer)?);
        let mut corpus = match made.is_some() || plain()? {
            true => Self::of_files(all, tokenizer, made)?,
            false => {
                let named = (pattern, &all[..]);
                let made = token_file::encode(named, content, tokenizer, hold_out, watch)?;
                Self::of_encoded(all, tokenizer, made)
            }
        };
        if hold_out.is_empty() {
            corpus = corpus.with_validation_fraction(VALIDATION_FRACTION)?;
        }
        Ok(corpus)
    }

    /// Files whose bytes are tokens, or a token file.
    fn of_files(
        all: Vec<Found>,
        tokenizer: &Tokenizer,
        counts: Option<(Counts, Width)>,
    ) -> Result<Self> {
        let (mut held, mut files, mut bytes) = (Vec::new(), Vec::new(), 0);
        for found in all {
            let start = bytes;
            bytes += found.bytes as usize;
            if bytes <= MOST_HELD {
                held.resize(bytes, 0);
                found.read(0, &mut held[start..])?;
            }
            files.push((start, found));
        }
        let tokens = counts.map_or(bytes, |(counts, _)| counts.tokens);
        Ok(Corpus {
            tokenizer: tokenizer.clone(),
            store: Store::of(held).into(),
            files: files.into(),
            counts,
            tokens,
            validation_start: tokens,
        })
    }

    /// What was encoded of files.
    fn of_encoded(all: Vec<Found>, tokenizer: &Tokenizer, encoded: Encoded) -> Self {
        Corpus {
            tokenizer: tokenizer.clone(),
            store: encoded.store.into(),
            files: all.into_iter().map(|found| (0, found)).collect(),
            counts: Some((encoded.counts, encoded.width)),
            tokens: encoded.counts.tokens,
            validation_start: encoded.border,
        }
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

    /// Number of documents of both parts together: of plain bytes files.
    pub fn documents(&self) -> usize {
        self.counts
            .map_or(self.files(), |(counts, _)| counts.documents)
    }

    /// Bytes of text that a token stands for, on average.
    pub fn bytes_per_token(&self) -> f64 {
        let of = |(counts, _): (Counts, Width)| counts.bytes as f64 / counts.tokens as f64;
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
        let of = |(_, width): (Counts, Width)| HEADER + token * width.0;
        self.counts.map_or(token, of)
    }

    /// Appends a row, which the caller knows to be inside the corpus: the `length` tokens from `start` on are inputs,
    /// and those one later their targets, unless they start a document or are given with it; or the same of the reverse
    /// complement of all of them. // (length)
    fn push_row(
        &self,
        start: usize,
        length: usize,
        complement: Option<&[u32]>,
        into: &mut Batch,
    ) -> Result<()> {
        // On the other strand the window starts with a document where one starts behind it here.
        let behind = usize::from(complement.is_some() && start + length + 1 < self.tokens);
        let [begin, end] = [start, start + length + 1 + behind].map(|token| self.place(token));
        let mut bytes = vec![0; end - begin];
        self.read(begin, &mut bytes)?;
        let mut words: Vec<u32> = match self.counts {
            None => bytes.into_iter().map(u32::from).collect(),
            Some((_, width)) => width.words(&bytes),
        };
        if let Some(complement) = complement {
            let next = words.drain(length + 1..).next().unwrap_or(START);
            reverse(&mut words, next, complement);
        }
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
        if end <= self.store.len() {
            return self.store.read(start, into);
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

    /// Enough to notice another text, and beyond what is held another order of files, without reading it all.
    fn fingerprint(&self) -> Result<u64> {
        let read = |place, sample: &mut [u8]| self.read(place, sample);
        fingerprint(self.place(self.tokens), self.store.held(), read)
    }
}

/// Whether the tokens are the bytes of these files.
fn are_plain(files: &[Found], content: &Content, tokenizer: &Tokenizer) -> Result<bool> {
    if *content != Content::Text || !tokenizer.is_bytes() || files.iter().any(text::are_lines) {
        return Ok(false);
    }
    let mut compressed = files.iter().map(Found::is_compressed);
    Ok(!compressed.try_fold(false, |any, one| Ok::<_, Error>(any || one?))?)
}

/// The reverse complement of words, the next of which behind them is `next`: a document starts between two tokens here
/// where one did there.
fn reverse(words: &mut [u32], next: u32, complement: &[u32]) {
    let mut start = next & START;
    for word in words.iter_mut().rev() {
        let id = complement.get((*word & ID) as usize).copied();
        let other = id.unwrap_or(*word & ID) | *word & SILENT | start;
        start = std::mem::replace(word, other) & START;
    }
    words.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_strand_of_the_other_strand_is_the_first() {
        let (complement, n) = ([3, 2, 1, 0, 4], 11);
        let flags = |i: u32| [0, START, SILENT, START | SILENT, 0][i as usize % 5];
        let word = |i: u32| i * i % 7 % 5 + flags(i);
        let words: Vec<u32> = (0..n).map(word).collect();
        for next in [0, START] {
            let mut other = words.clone();
            reverse(&mut other, next, &complement);
            assert_eq!(other[0] & START, next);
            for i in 1..n as usize {
                let j = n as usize - i;
                assert_eq!(
                    other[j] & START,
                    words[i] & START,
                    "between {} and {i}",
                    i - 1
                );
                assert_eq!(other[j - 1] & SILENT, words[i] & SILENT);
                assert_eq!(other[j - 1] & ID, complement[(words[i] & ID) as usize]);
            }
            reverse(&mut other, words[0], &complement);
            assert_eq!(other, words);
        }
    }
}
