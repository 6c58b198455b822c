//! Token files: texts encoded once.

use std::io::{self, SeekFrom};
use std::path::Path;

use rayon::prelude::*;
use serpens_core::files::{FileError, Unread, write_atomically};

use super::documents::{Block, read_documents};
use super::files::{self, Found};
use crate::error::{Error, Result};
use crate::{Tokenizer, TokenizerError};

/// Bytes of the header.
pub(super) const HEADER: usize = 64;
/// Bytes of a token.
pub(super) const WORD: usize = 4;
/// A document starts with this token.
pub(super) const START: u32 = 1 << 31;
/// The token is given, and not to be learnt.
pub(super) const SILENT: u32 = 1 << 30;
/// The rest of a word is the token.
pub(super) const ID: u32 = SILENT - 1;

const MAGIC: &[u8; 16] = b"serpens tokens 1";

/// Bytes of text that are encoded at a time, by all threads.
const TURN: usize = 4 << 20;

/// How much there is in a token file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens, what begins and ends documents among them.
    pub tokens: usize,
    /// Documents.
    pub documents: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

/// What a token file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The fingerprint of the tokenizer.
    pub(super) tokenizer: u64,
    pub(super) counts: Counts,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let counts = self.counts;
        let counts =
            [counts.tokens, counts.documents, counts.bytes, 0, 0].map(|count| count as u64);
        let numbers = [self.tokenizer].into_iter().chain(counts);
        let numbers = numbers.flat_map(u64::to_le_bytes);
        MAGIC.iter().copied().chain(numbers).collect()
    }

    /// The header of a file that is a token file; `None` of any other.
    pub(super) fn of_file(file: &Found, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let mut bytes = [0; HEADER];
        if file.bytes >= HEADER as u64 {
            file.read(0, &mut bytes)?;
        }
        let Some(numbers) = bytes.strip_prefix(MAGIC) else {
            return Ok(None);
        };
        let number = |at: usize| u64::from_le_bytes(numbers.as_chunks().0[at]);
        if number(0) != tokenizer.fingerprint() {
            return Err(Error::OtherTokenizer(file.path.clone()));
        }
        if (file.bytes - HEADER as u64) / WORD as u64 != number(1) {
            return Err(Error::Changed(file.path.clone()));
        }
        Ok(Some(Self {
            tokenizer: number(0),
            counts: Counts {
                tokens: number(1) as usize,
                documents: number(2) as usize,
                bytes: number(3) as usize,
            },
        }))
    }
}

/// Encodes the texts that the patterns name (as [`Corpus::open`](crate::Corpus::open) reads each) into a file that
/// `Corpus::open` opens as them. It is written whole or not at all, and the same whatever the number of threads; memory
/// does not depend on the length of the text, where the tokenizer can read texts in blocks: one that is byte-level and cuts
/// words as GPT-2 does, or a table of symbols, between a visible character and an end of line, and bytes.
///
/// A file is a document. Where its name ends in `.jsonl`, each line is: `{"text": …}`, or
/// `{"prompt": …, "completion": …}`, of which only the completion is to be learnt; both are encoded by themselves, and other
/// fields passed over. Before each stands what begins a text ([`Tokenizer::begin`]), behind it the first of what ends one
/// ([`Tokenizer::end_of_text`]).
///
/// The file is little-endian: 16 bytes `serpens tokens 1`, six u64 (the tokenizer's fingerprint, tokens, documents, bytes
/// of text, 0, 0), then a u32 for each token: its id, plus 2^31 where a document starts, plus 2^30 where it is not to be
/// learnt.
///
/// `watch` hears how many bytes of how many are encoded; its error ends the work, as does any other, without a file.
///
/// # Errors
/// Those of [`Corpus::open`](crate::Corpus::open); a text that the tokenizer does not read, [`Error::Line`],
/// [`Error::LongDocument`], [`Error::EmptyFile`] where no token comes of it; a file that cannot be written, such as a
/// device.
pub fn tokenize<E: From<Error> + From<FileError>>(
    patterns: &[String],
    tokenizer: &Tokenizer,
    out: &Path,
    watch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Counts, E> {
    let mut all = Vec::new();
    for pattern in patterns {
        all.extend(files::find(pattern)?);
    }
    if out.metadata().is_ok_and(|there| !there.is_file()) {
        // A device would be replaced by the file.
        return Err(FileError::of("write", out)(Unread::NoFile.into()).into());
    }
    let bytes = all.iter().map(|found| found.bytes).sum::<u64>() as usize;
    let mut counts = Counts::default();
    write_atomically(out, |file| {
        let header = write(&all, tokenizer, file, out, &mut |done| watch(done, bytes))?;
        counts = header.counts;
        Ok::<_, E>(())
    })?;
    Ok(counts)
}

/// Writes a token file of these texts.
pub(super) fn write<E: From<Error>>(
    files: &[Found],
    tokenizer: &Tokenizer,
    out: &mut (impl io::Write + io::Seek),
    path: &Path,
    watch: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<Header, E> {
    let mut writer = Writer {
        tokenizer,
        out,
        path,
        starts: false,
        header: Header {
            tokenizer: tokenizer.fingerprint(),
            counts: Counts::default(),
        },
    };
    writer.put(&[0; HEADER])?;
    let (mut blocks, mut waiting, mut done) = (Vec::new(), 0, 0);
    for file in files {
        read_documents(file, tokenizer, &mut |block| {
            waiting += block.text.len();
            blocks.push(block);
            if waiting >= TURN {
                writer.write(&std::mem::take(&mut blocks), file)?;
                done += std::mem::take(&mut waiting);
                watch(done)?;
            }
            Ok::<_, E>(())
        })?;
        writer.write(&std::mem::take(&mut blocks), file)?;
    }
    let header = writer.header;
    if header.counts.tokens == 0 {
        return Err(Error::EmptyFile(files[0].path.clone()).into());
    }
    let seek = writer.out.seek(SeekFrom::Start(0));
    seek.map_err(FileError::of("write", path))
        .map_err(Error::from)?;
    writer.put(&header.to_bytes())?;
    Ok(header)
}

struct Writer<'a, W> {
    tokenizer: &'a Tokenizer,
    out: &'a mut W,
    path: &'a Path,
    /// Whether the next token is a document's first.
    starts: bool,
    header: Header,
}

impl<W: io::Write> Writer<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes);
        Ok(written.map_err(FileError::of("write", self.path))?)
    }

    /// Encodes blocks of a file, at the same time, and writes them in order.
    fn write(&mut self, blocks: &[Block], file: &Found) -> Result<()> {
        let encode = |block: &Block| {
            self.tokenizer
                .encode(&block.text)
                .map_err(|error| match error {
                    Error::Tokens(TokenizerError::NotText(at)) => {
                        TokenizerError::NotText(at + block.at)
                    }
                    Error::Tokens(source) => source,
                    other => TokenizerError::broken(other),
                })
        };
        let encoded: Result<Vec<_>, _> = blocks.par_iter().map(encode).collect();
        let encoded = encoded.map_err(|source| Error::Tokenizer {
            path: file.path.clone(),
            source,
        })?;
        for (block, ids) in blocks.iter().zip(encoded) {
            let begin = self.tokenizer.begin().iter().filter(|_| block.begins);
            let end = self.tokenizer.end_of_text().first().filter(|_| block.ends);
            self.starts |= block.begins;
            let silent = if block.learnt { 0 } else { SILENT };
            let mut words = Vec::with_capacity((ids.len() + 2) * WORD);
            for id in begin.chain(&ids).chain(end) {
                let start = if std::mem::take(&mut self.starts) {
                    START
                } else {
                    0
                };
                words.extend((id | start | silent).to_le_bytes());
            }
            self.put(&words)?;
            let counts = &mut self.header.counts;
            counts.tokens += words.len() / WORD;
            counts.documents += usize::from(block.begins);
            counts.bytes += block.text.len();
        }
        Ok(())
    }
}
