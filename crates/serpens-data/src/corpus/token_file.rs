//! Token files: texts encoded once.

use std::io::{Seek, Write};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use serpens_core::files::{FileError, is_same, write_atomically};

use super::asked::Asked;
use crate::content::{Block, Content};
use crate::error::{Error, Result};
use crate::files::Found;
use crate::store::Store;
use crate::{Tokenizer, TokenizerError};

/// Bytes of the header.
pub(super) const HEADER: usize = 64;
/// A document starts with this token.
pub(super) const START: u32 = 1 << 31;
/// The token is given, and not to be learnt.
pub(super) const SILENT: u32 = 1 << 30;
/// The rest of a word is the token.
pub(super) const ID: u32 = SILENT - 1;

/// Bytes of a word: 1, 2 or 4. In a file its highest bits are [`START`] and [`SILENT`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Width(pub(super) usize);

impl Width {
    /// The fewest bytes that have room for every token.
    fn of(tokenizer: &Tokenizer) -> Self {
        Self(match tokenizer.vocab_size() {
            0..=0x40 => 1,
            0x41..=0x4000 => 2,
            _ => 4,
        })
    }

    /// Appends words as they are in a file.
    fn put(self, words: impl Iterator<Item = u32>, into: &mut Vec<u8>) {
        let short = |word: u32| word >> 30 << (8 * self.0 - 2) | word & ID;
        match self.0 {
            1 => into.extend(words.map(|word| short(word) as u8)),
            2 => into.extend(words.flat_map(|word| (short(word) as u16).to_le_bytes())),
            _ => into.extend(words.flat_map(u32::to_le_bytes)),
        }
    }

    /// The words of a file.
    pub(super) fn words(self, bytes: &[u8]) -> Vec<u32> {
        let shift = 8 * self.0 - 2;
        let long = |word: u32| word >> shift << 30 | word & ((1 << shift) - 1);
        match self.0 {
            1 => bytes.iter().map(|&byte| long(byte.into())).collect(),
            2 => {
                let words = bytes.as_chunks().0.iter();
                words
                    .map(|&word| long(u16::from_le_bytes(word).into()))
                    .collect()
            }
            _ => {
                let words = bytes.as_chunks().0.iter();
                words.map(|&word| u32::from_le_bytes(word)).collect()
            }
        }
    }
}

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

/// What a file says of itself that is a token file of this tokenizer; `None` of any other file.
pub(super) fn counts(file: &Found, tokenizer: &Tokenizer) -> Result<Option<(Counts, Width)>> {
    let mut header = [0; HEADER];
    if file.bytes >= HEADER as u64 {
        file.read(0, &mut header)?;
    }
    let Some(numbers) = header.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    let numbers = numbers.as_chunks().0;
    let [made_by, tokens, documents, bytes, width] =
        std::array::from_fn(|at| u64::from_le_bytes(numbers[at]));
    if made_by != tokenizer.fingerprint() {
        return Err(Error::OtherTokenizer(file.path.clone()));
    }
    let width = match width {
        0 => 4, // of files from before there were others
        width => width,
    };
    if ![1, 2, 4].contains(&width) || (file.bytes - HEADER as u64) / width != tokens {
        return Err(Error::Changed(file.path.clone()));
    }
    let [tokens, documents, bytes] = [tokens, documents, bytes].map(|count| count as usize);
    let counts = Counts {
        tokens,
        documents,
        bytes,
    };
    Ok(Some((counts, Width(width as usize))))
}

/// Encodes the texts that the patterns name (as [`Corpus::open`](crate::Corpus::open) reads each) into a file that
/// `Corpus::open` opens as them. It is written whole or not at all, and the same whatever the number of threads; memory
/// does not depend on the length of the text, where the tokenizer can read texts in blocks: one that is byte-level and
/// cuts words as GPT-2 does, or a table of symbols, between a visible character and an end of line, and bytes.
///
/// What a document is, its content says: of texts a file is one. Where a text's name ends in `.jsonl`, each line is:
/// `{"text": …}`, or `{"prompt": …, "completion": …}`, of which only the completion is to be learnt; both are encoded
/// by themselves, and other fields passed over. Of DNA every record is one, or what is read of it. Files that are
/// compressed by gzip or zstd are read as what they hold; of their names the end before `.gz`, `.bgz` or `.zst` counts.
/// Before each document stands what begins a text ([`Tokenizer::begin`]), behind it the first of what ends one
/// ([`Tokenizer::end_of_text`]).
///
/// The file is little-endian: 16 bytes `serpens tokens 1`, six u64 (the tokenizer's fingerprint, tokens, documents,
/// bytes of text, bytes of a word, 0), then a word for each token. Words have 1, 2 or 4 bytes (0 in older files: 4),
/// the fewest whose bits but two have room for every token. The highest bit says that a document starts, the next
/// that the token is not to be learnt, the others are its id.
///
/// `watch` hears how many bytes of how many are read of the files, compressed ones as they are; its error ends the
/// work, as does any other, without a file.
///
/// # Errors
/// Those of [`Corpus::open`](crate::Corpus::open); [`Error::OwnText`]; a file that cannot be written, such as a device.
pub fn tokenize<E: From<Error> + From<FileError>>(
    patterns: &[String],
    content: &Content,
    tokenizer: &Tokenizer,
    out: &Path,
    watch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Counts, E> {
    let mut all = Vec::new();
    for pattern in patterns {
        all.extend(content.find(pattern)?);
    }
    if all.iter().any(|found| is_same(&found.path, out)) {
        return Err(Error::OwnText(out.to_owned()).into());
    }
    let bytes = total(&all);
    let (mut counts, failed) = (Counts::default(), FileError::of("write", out));
    write_atomically(out, |file| {
        file.write_all(&[0; HEADER]).map_err(&failed)?;
        let put = &mut |words: &[u8]| Ok(file.write_all(words).map_err(&failed)?);
        let mut writer = Writer::new(tokenizer, put);
        writer.encode(&all, content, &mut |_| true, &mut |done| watch(done, bytes))?;
        counts = writer.counts;
        let header = writer.header(&all)?;
        let written = file.rewind().and_then(|()| file.write_all(&header));
        Ok::<_, E>(written.map_err(&failed)?)
    })?;
    Ok(counts)
}

/// Bytes of all these files.
fn total(files: &[Found]) -> usize {
    files.iter().map(|found| found.bytes).sum::<u64>() as usize
}

/// What [`encode`] makes.
pub(super) struct Encoded {
    /// What the token file would hold.
    pub store: Store,
    pub counts: Counts,
    pub width: Width,
    /// Tokens of the records that are not held out, which come first.
    pub border: usize,
}

/// Encodes what `pattern` named without a file. The records that are held out, whose names are checked, come last.
pub(super) fn encode<E: From<Error>>(
    (pattern, files): (&str, &[Found]),
    content: &Content,
    tokenizer: &Tokenizer,
    hold_out: &[String],
    watch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Encoded, E> {
    let mut store = Store::default();
    store.push(&[0; HEADER])?;
    let put = &mut |words: &[u8]| store.push(words);
    let mut writer = Writer::new(tokenizer, put);
    let mut held_out = Asked::new(hold_out.iter().cloned());
    let once = total(files);
    let all = once * (1 + usize::from(!hold_out.is_empty()));
    let go_on = &mut |done| watch(done, all);
    let mut border = 0;
    for held in [false, true].into_iter().take(all / once) {
        border = writer.counts.tokens;
        let wanted = &mut |name: &str| held_out.see(name) == held;
        let watch = &mut |done| go_on(done + once * usize::from(held));
        writer.encode(files, content, wanted, watch)?;
        held_out.check(Path::new(pattern))?;
    }
    let (counts, width, header) = (writer.counts, writer.width, writer.header(files)?);
    store.put_first(&header);
    Ok(Encoded {
        store,
        counts,
        width,
        border,
    })
}

/// Makes words of texts, and hands them on.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    width: Width,
    put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    /// Whether the next token is a document's first.
    starts: bool,
    counts: Counts,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: &'a Tokenizer, put: &'a mut dyn FnMut(&[u8]) -> Result<()>) -> Self {
        Self {
            tokenizer,
            width: Width::of(tokenizer),
            put,
            starts: false,
            counts: Counts::default(),
        }
    }

    /// Encodes the records of these files whose names are wanted; that of a file is its own.
    fn encode<E: From<Error>>(
        &mut self,
        files: &[Found],
        content: &Content,
        wanted: &mut dyn FnMut(&str) -> bool,
        watch: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut blocks, mut turn, mut done, mut wants) = (Vec::new(), 0, 0, false);
        let mut asked = content.asked()?;
        for file in files {
            let own = file.path.file_name().unwrap_or_default().to_string_lossy();
            content.read(file, self.tokenizer, &mut |block| {
                if block.begins {
                    let name = if block.name.is_empty() {
                        &own
                    } else {
                        &*block.name
                    };
                    asked.see(name);
                    wants = wanted(name);
                }
                turn += block.text().len();
                blocks.extend(Some(block).filter(|_| wants));
                if turn >= TURN {
                    turn = 0;
                    self.write(&std::mem::take(&mut blocks), file)?;
                    watch(done + file.taken())?;
                }
                Ok::<_, E>(())
            })?;
            self.write(&std::mem::take(&mut blocks), file)?;
            done += file.bytes as usize;
        }
        Ok(content.check(&asked)?)
    }

    /// The header of a file with all that was encoded of these files.
    fn header(&self, files: &[Found]) -> Result<Vec<u8>> {
        let Counts {
            tokens,
            documents,
            bytes,
        } = self.counts;
        if tokens == 0 {
            return Err(Error::NoText(files[0].path.clone()));
        }
        let numbers = [tokens, documents, bytes, self.width.0, 0].map(|number| number as u64);
        let numbers = [&[self.tokenizer.fingerprint()][..], &numbers].concat();
        let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
        Ok(MAGIC.iter().copied().chain(numbers).collect())
    }

    /// Encodes blocks of a file, at the same time, and hands them on in order.
    fn write(&mut self, blocks: &[Block], file: &Found) -> Result<()> {
        let encode = |block: &Block| {
            let ids = self.tokenizer.encode(block.text());
            let ids = ids.map_err(|error| match error {
                TokenizerError::NotText(at) => TokenizerError::NotText(at + block.at),
                other => other,
            })?;
            let begin = self.tokenizer.begin().iter().filter(|_| block.begins);
            let end = self.tokenizer.end_of_text().first().filter(|_| block.ends);
            let mut words = Vec::with_capacity((ids.len() + 2) * self.width.0);
            let silent = SILENT * u32::from(!block.learnt);
            self.width.put(begin.map(|id| id | silent), &mut words);
            self.width.put(ids.iter().map(|id| id | silent), &mut words);
            self.width
                .put(end.map(|id| id | silent).into_iter(), &mut words);
            Ok(words)
        };
        let encoded: Result<Vec<_>, _> = blocks.par_iter().map(encode).collect();
        let encoded = encoded.map_err(Error::of_tokenizer(&file.path))?;
        for (block, mut words) in blocks.iter().zip(encoded) {
            self.starts |= block.begins;
            // The highest bit of the first word is in its last byte.
            if let Some(byte) = words.get_mut(self.width.0 - 1) {
                *byte |= u8::from(std::mem::take(&mut self.starts)) << 7;
            }
            (self.put)(&words)?;
            self.counts.tokens += words.len() / self.width.0;
            self.counts.documents += usize::from(block.begins);
            self.counts.bytes += block.text().len();
        }
        Ok(())
    }
}
