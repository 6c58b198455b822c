//! Records of files, each of which is read at any place.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::Tokenizer;
use crate::content::{Block, Content, Read, text};
use crate::error::{Error, Result};
use crate::files::Found;
use crate::source::{Batch, Numbers};
use crate::store::{Store, fingerprint};

/// Told how many bytes of how many are read; its error ends the reading.
pub type Watch<'a, E> = dyn FnMut(usize, usize) -> Result<(), E> + 'a;

/// The records of files one after the other: texts, sequences, sounds, images, tables. A *position* is a token, or the
/// values of all channels.
#[derive(Debug)]
pub struct Records {
    store: Store,
    records: Vec<Record>,
    form: Form,
}

/// A record: a file, or what has a name in one.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its file.
    pub file: Arc<Path>,
    /// What it is called in the file, of lines their number; empty where the file is one record.
    pub name: String,
    /// Its positions.
    pub positions: Range<usize>,
}

/// What a position is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// A token, in so many bytes.
    Token(usize),
    /// So many values.
    Values(usize),
}

impl Form {
    /// Bytes of a position.
    fn bytes(self) -> usize {
        match self {
            Self::Token(bytes) => bytes,
            Self::Values(channels) => 4 * channels,
        }
    }
}

impl Records {
    /// Reads all records of the files that `pattern` names, as [`Corpus::open`](crate::Corpus::open) finds them; the
    /// tokenizer makes tokens of what is text. What exceeds 256 MiB is kept in a temporary file.
    ///
    /// # Errors
    /// What cannot be read, or not as this content, with its file; [`Error::NoText`] where there is nothing in all of
    /// them; files of another number of channels than those before them.
    pub fn open<E: From<Error>>(
        pattern: &str,
        content: &Content,
        tokenizer: &Tokenizer,
        watch: &mut Watch<'_, E>,
    ) -> Result<Self, E> {
        let found = content.find(pattern)?;
        let all: u64 = found.iter().map(|file| file.bytes).sum();
        let token = match tokenizer.vocab_size() {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 4,
        };
        let mut records = Self {
            store: Store::default(),
            records: Vec::new(),
            form: Form::Token(token),
        };
        let mut done = 0;
        for file in &found {
            watch(done as usize, all as usize)?;
            let path: Arc<Path> = file.path.as_path().into();
            let (lines, first) = (text::are_lines(file), records.records.len());
            content.read(file, tokenizer, &mut |mut block| {
                if lines && block.begins {
                    block.name = (records.records.len() - first + 1).to_string();
                }
                records.add(&path, file, block, tokenizer)?;
                watch(done as usize + file.taken(), all as usize)
            })?;
            done += file.bytes;
        }
        if records.store.len() == 0 {
            return Err(Error::NoText(found[0].path.clone()).into());
        }
        Ok(records)
    }

    fn add(&mut self, path: &Arc<Path>, file: &Found, block: Block, by: &Tokenizer) -> Result<()> {
        let bytes: Vec<u8> = match &block.read {
            Read::Text(text) => {
                let ids = by.encode(text).map_err(Error::of_tokenizer(&file.path))?;
                let bytes = self.form.bytes();
                let of = |id: u32| id.to_le_bytes().into_iter().take(bytes);
                ids.into_iter().flat_map(of).collect()
            }
            Read::Values { values, channels } => {
                self.check_channels(file, *channels)?;
                bytes_of(values)
            }
        };
        let start = self.positions();
        self.store.push(&bytes)?;
        let end = self.positions();
        match self.records.last_mut().filter(|_| !block.begins) {
            Some(record) => {
                record.positions.end = end;
                if !block.name.is_empty() {
                    record.name = block.name; // that of a stretch is whole at its end only
                }
            }
            None => self.records.push(Record {
                file: path.clone(),
                name: block.name,
                positions: start..end,
            }),
        }
        Ok(())
    }

    /// Takes over the number of channels from the first values, and refuses others.
    fn check_channels(&mut self, file: &Found, channels: usize) -> Result<()> {
        let (found, first) = (Form::Values(channels), self.store.len() == 0);
        if first {
            self.form = found;
        }
        match (self.form, found) {
            (here, found) if here == found => Ok(()),
            (Form::Values(before), _) => {
                let wrong = format!(
                    "it has {channels} values at each position, the files before it have {before}: give files that are alike"
                );
                Err(Error::of_content(&file.path, "", wrong))
            }
            (Form::Token(_), _) => unreachable!("a content is read as text or as values"),
        }
    }

    /// All of them, in the order of their files' paths.
    pub fn all(&self) -> &[Record] {
        &self.records
    }

    /// Positions of all of them together.
    pub fn positions(&self) -> usize {
        self.store.len() / self.form.bytes()
    }

    /// Values at each position; 0 where there are tokens.
    pub fn channels(&self) -> usize {
        match self.form {
            Form::Token(_) => 0,
            Form::Values(channels) => channels,
        }
    }

    /// A number that differs where what is read does, as far as it is looked at ([`fingerprint`]).
    pub(crate) fn fingerprint(&self) -> Result<u64> {
        let read = |place, sample: &mut [u8]| self.store.read(place, sample);
        fingerprint(self.store.len(), self.store.held(), read)
    }

    /// What stands at these positions, which must be those of records. // (length) or (length, channels)
    ///
    /// # Errors
    /// A temporary file that cannot be read.
    pub fn read(&self, positions: Range<usize>) -> Result<Numbers> {
        let each = self.form.bytes();
        let mut bytes = vec![0; positions.len() * each];
        self.store.read(positions.start * each, &mut bytes)?;
        Ok(match self.form {
            Form::Token(each) => {
                let id = |bytes: &[u8]| {
                    let shifted = bytes.iter().zip((0..).step_by(8));
                    shifted.map(|(byte, by)| u32::from(*byte) << by).sum()
                };
                Numbers::Ids(bytes.chunks(each).map(id).collect())
            }
            Form::Values(_) => {
                let values = bytes.as_chunks().0.iter();
                Numbers::Values(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
        })
    }
}

impl Records {
    /// Stretches of records in rows of `length` positions, without targets. Where some are shorter, the rest of their
    /// rows is filled with 0 and is a sequence by itself.
    ///
    /// # Errors
    /// A temporary file that cannot be read.
    pub fn batch(&self, windows: &[Range<usize>], length: usize) -> Result<Batch<Numbers>> {
        let each = self.channels().max(1);
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        let mut starts = vec![false; windows.len() * length];
        for (row, window) in windows.iter().enumerate() {
            starts[row * length] = true;
            if window.len() < length {
                starts[row * length + window.len()] = true;
            }
            match self.read(window.clone())? {
                Numbers::Ids(read) => {
                    ids.extend(read);
                    ids.resize((row + 1) * length, 0);
                }
                Numbers::Values(read) => {
                    values.extend(read);
                    values.resize((row + 1) * length * each, 0.0);
                }
            }
        }
        let padded = windows.iter().any(|window| window.len() < length);
        Ok(Batch {
            inputs: match self.channels() {
                0 => Numbers::Ids(ids),
                _ => Numbers::Values(values),
            },
            targets: Numbers::Ids(Vec::new()),
            starts: padded.then_some(starts),
            batch: windows.len(),
            length,
        })
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
