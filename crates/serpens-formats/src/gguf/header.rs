//! Reading a header, whose lengths may be wrong: no more is taken than the file has.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serpens_core::files::{FileError, MOST_WHOLE};

use super::Fault;
use crate::{Error, Result};

pub(super) struct Header<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    /// Where it is read next, and where it ends at the latest.
    pub(super) at: u64,
    end: u64,
}

impl<'a> Header<'a> {
    /// The header of a file of so many bytes.
    pub(super) fn new(path: &'a Path, file: &'a File, length: u64) -> Self {
        Self {
            path,
            file: BufReader::new(file),
            at: 0,
            end: length.min(MOST_WHOLE),
        }
    }

    /// The next bytes.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > self.end - self.at {
            return Err(self.error(Fault::Truncated));
        }
        self.at += count;
        let mut bytes = vec![0; count as usize];
        let read = self.file.read_exact(&mut bytes);
        read.map_err(FileError::of("read", self.path))?;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    /// The file's error.
    pub(super) fn error(&self, source: Fault) -> Error {
        Error::Gguf {
            path: self.path.to_owned(),
            source,
        }
    }
}
