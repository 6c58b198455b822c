//! Bytes that are read at any place: the first of them in memory, the rest in a file.

use std::env::temp_dir;
use std::fs::File;
use std::hash::Hasher;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use serpens_core::files::FileError;
use twox_hash::XxHash3_64;

use crate::error::Result;

/// The most bytes that are held in memory.
pub(crate) const MOST_HELD: usize = 256 << 20;

/// Bytes that were put one after the other. What goes beyond the memory's share is in a file without a name where the
/// system keeps temporary ones (`TMPDIR`), and is gone with the process.
#[derive(Debug, Default)]
pub(crate) struct Store {
    held: Vec<u8>,
    file: Option<Mutex<BufWriter<File>>>,
    len: usize,
}

impl Store {
    /// These bytes, which are at most [`MOST_HELD`].
    pub(crate) fn of(held: Vec<u8>) -> Self {
        let (file, len) = (None, held.len());
        Self { held, file, len }
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts these behind all others.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let kept = bytes.len().min(MOST_HELD - self.held.len());
        let (kept, rest) = bytes.split_at(kept);
        self.held.extend_from_slice(kept);
        self.len += bytes.len();
        if rest.is_empty() {
            return Ok(());
        }
        let folder = temp_dir();
        let failed = FileError::of("write to a temporary file in", &folder);
        let file = match self.file.take() {
            Some(file) => file,
            None => Mutex::new(BufWriter::with_capacity(
                1 << 20,
                tempfile::tempfile().map_err(&failed)?,
            )),
        };
        let file = self.file.insert(file).get_mut();
        let file = file.unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(file.write_all(rest).map_err(failed)?)
    }

    /// Puts these in the place of the first ones, which are in memory.
    pub(crate) fn put_first(&mut self, bytes: &[u8]) {
        self.held[..bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes that are in memory: all, or the first [`MOST_HELD`].
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Fills `into` with the bytes from `start` on, which the caller knows to be there.
    pub(crate) fn read(&self, start: usize, into: &mut [u8]) -> Result<()> {
        let here = self.held.len().saturating_sub(start).min(into.len());
        let (held, rest) = into.split_at_mut(here);
        if here > 0 {
            held.copy_from_slice(&self.held[start..start + here]);
        }
        let Some(file) = self.file.as_ref().filter(|_| !rest.is_empty()) else {
            return Ok(());
        };
        let place = (start + here - self.held.len()) as u64;
        let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let read = file.flush().and_then(|()| {
            let file = file.get_mut();
            file.seek(SeekFrom::Start(place))?;
            file.read_exact(rest)?;
            file.seek(SeekFrom::End(0)).map(drop)
        });
        Ok(read.map_err(FileError::of("read a temporary file in", &temp_dir()))?)
    }
}

/// The XXH3-64 of a size, of all that is held in memory, and of 16 bytes at each of 64 places spread evenly over the
/// whole, which `read` fills in.
pub(crate) fn fingerprint(
    bytes: usize,
    held: &[u8],
    read: impl Fn(usize, &mut [u8]) -> Result<()>,
) -> Result<u64> {
    let mut hash = XxHash3_64::new();
    hash.write(&(bytes as u64).to_le_bytes());
    hash.write(held);
    let mut sample = [0; 16];
    let sample = &mut sample[..bytes.min(16)];
    let last = bytes - sample.len();
    for place in 0..64 {
        read((last as u128 * place / 63) as usize, sample)?;
        hash.write(sample);
    }
    Ok(hash.finish())
}
