//! Token files: texts encoded once.

use std::io::{Seek, Write};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use serpens_core::files::{FileError, is_same, write_atomically};

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Tokens, what begins and ends documents among them.
    pub tokens: usize,
    /// Documents.
    pub documents: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

/// The header of a token file that this tokenizer made.
pub(super) fn header(tokenizer: &Tokenizer, counts: Counts) -> Vec<u8> {
    let counts = [counts.tokens, counts.documents, counts.bytes, 0, 0].map(|count| count as u64);
    let numbers = [&[tokenizer.fingerprint()][..], &counts].concat();
    let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
    MAGIC.iter().copied().chain(numbers).collect()
}

/// What a file says of itself that is a token file of this tokenizer; `None` of any other file.
pub(super) fn counts(file: &Found, tokenizer: &Tokenizer) -> Result<Option<Counts>> {
    let mut header = [0; HEADER];
    if file.bytes >= HEADER as u64 {
        file.read(0, &mut header)?;
    }
    let Some(numbers) = header.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    let numbers = numbers.as_chunks().0;
    let [made_by, tokens, documents, bytes] =
        std::array::from_fn(|at| u64::from_le_bytes(numbers[at]));
    if made_by != tokenizer.fingerprint() {
        return Err(Error::OtherTokenizer(file.path.clone()));
    }
    if (file.bytes - HEADER as u64) / WORD as u64 != tokens {
        return Err(Error::Changed(file.path.clone()));
    }
    let [tokens, documents, bytes] = [tokens, documents, bytes].map(|count| count as usize);
    Ok(Some(Counts {
        tokens,
        documents,
        bytes,
    }))
}

/// Encodes the texts that the patterns name (as [`Corpus::open`](crate::Corpus::open) reads each) into a file that
/// `Corpus::open` opens as them. It is written whole or not at all, and the same whatever the number of threads; memory
/// does not depend on the length of the text, where the tokenizer can read texts in blocks: one that is byte-level and
/// cuts words as GPT-2 does, or a table of symbols, between a visible character and an end of line, and bytes.
///
/// A file is a document. Where its name ends in `.jsonl`, each line is: `{"text": …}`, or
/// `{"prompt": …, "completion": …}`, of which only the completion is to be learnt; both are encoded by themselves, and
/// other fields passed over. Before each stands what begins a text ([`Tokenizer::begin`]), behind it the first of what
/// ends one ([`Tokenizer::end_of_text`]).
///
/// The file is little-endian: 16 bytes `serpens tokens 1`, six u64 (the tokenizer's fingerprint, tokens, documents,
/// bytes of text, 0, 0), then a u32 for each token: its id, plus 2^31 where a document starts, plus 2^30 where it is
/// not to be learnt.
///
/// `watch` hears how many bytes of how many are encoded; its error ends the work, as does any other, without a file.
///
/// # Errors
/// Those of [`Corpus::open`](crate::Corpus::open); a text that the tokenizer does not read, [`Error::Line`],
/// [`Error::LongDocument`], [`Error::NoText`] where no token comes of it, [`Error::OwnText`]; a file that cannot be
/// written, such as a device.
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
    if all.iter().any(|found| is_same(&found.path, out)) {
        return Err(Error::OwnText(out.to_owned()).into());
    }
    let bytes = all.iter().map(|found| found.bytes).sum::<u64>() as usize;
    let (mut counts, failed) = (Counts::default(), FileError::of("write", out));
    write_atomically(out, |file| {
        file.write_all(&[0; HEADER]).map_err(&failed)?;
        let put = &mut |words: &[u8]| Ok(file.write_all(words).map_err(&failed)?);
        counts = encode(&all, tokenizer, put, &mut |done| watch(done, bytes))?;
        let header = header(tokenizer, counts);
        let written = file.rewind().and_then(|()| file.write_all(&header));
        Ok::<_, E>(written.map_err(&failed)?)
    })?;
    Ok(counts)
}

/// Encodes these texts and hands on what stands behind the header of their token file.
pub(super) fn encode<E: From<Error>>(
    files: &[Found],
    tokenizer: &Tokenizer,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
    watch: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<Counts, E> {
    let mut writer = Writer {
        tokenizer,
        put,
        starts: false,
        counts: Counts::default(),
    };
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
    match writer.counts.tokens {
        0 => Err(Error::NoText(files[0].path.clone()).into()),
        _ => Ok(writer.counts),
    }
}

struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    /// Whether the next token is a document's first.
    starts: bool,
    counts: Counts,
}

impl Writer<'_> {
    /// Encodes blocks of a file, at the same time, and hands them on in order.
    fn write(&mut self, blocks: &[Block], file: &Found) -> Result<()> {
        let encode = |block: &Block| {
            let ids = self.tokenizer.encode(&block.text);
            ids.map_err(|error| match error {
                TokenizerError::NotText(at) => TokenizerError::NotText(at + block.at),
                other => other,
            })
        };
        let encoded: Result<Vec<_>, _> = blocks.par_iter().map(encode).collect();
        let encoded = encoded.map_err(Error::of_tokenizer(&file.path))?;
        for (block, ids) in blocks.iter().zip(encoded) {
            let begin = self.tokenizer.begin().iter().filter(|_| block.begins);
            let end = self.tokenizer.end_of_text().first().filter(|_| block.ends);
            self.starts |= block.begins;
            let silent = SILENT * u32::from(!block.learnt);
            let mut words = Vec::with_capacity((ids.len() + 2) * WORD);
            for id in begin.chain(&ids).chain(end) {
                let start = START * u32::from(std::mem::take(&mut self.starts));
                words.extend((id | start | silent).to_le_bytes());
            }
            (self.put)(&words)?;
            self.counts.tokens += words.len() / WORD;
            self.counts.documents += usize::from(block.begins);
            self.counts.bytes += block.text.len();
        }
        Ok(())
    }
}
