//! Lines of any length, read in pieces.

use std::io::{BufRead, Read};

use crate::error::Result;
use crate::files::Found;

/// Bytes of a piece at most.
const PIECE: u64 = if cfg!(test) { 20 } else { 1 << 16 };

/// A file's lines. What is public is of the present piece, which is never empty.
pub(super) struct Lines<'a> {
    content: Box<dyn BufRead + Send>,
    file: &'a Found,
    /// Which line it is of, from 1 on.
    number: usize,
    /// With the end of the line.
    pub piece: Vec<u8>,
    /// Whether it begins its line.
    pub begins: bool,
    /// Whether it ends its line.
    pub ends: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn open(file: &'a Found) -> Result<Self> {
        Ok(Self {
            content: file.open()?,
            file,
            number: 0,
            piece: Vec::new(),
            begins: false,
            ends: true,
        })
    }

    /// Goes on to the next piece, where there is one.
    pub(super) fn next(&mut self) -> Result<bool> {
        self.piece.clear();
        let mut content = self.content.by_ref().take(PIECE);
        let read = content.read_until(b'\n', &mut self.piece);
        if read.map_err(|error| self.file.unread(error))? == 0 {
            return Ok(false);
        }
        self.begins = self.ends;
        self.number += usize::from(self.begins);
        self.ends = self.piece.ends_with(b"\n") || {
            let next = self.content.fill_buf();
            next.map_err(|error| self.file.unread(error))?.is_empty()
        };
        Ok(true)
    }

    pub(super) fn is_blank(&self) -> bool {
        self.piece.trim_ascii_start().is_empty()
    }

    /// Which line it is, for a message.
    pub(super) fn place(&self) -> String {
        format!(", line {}", self.number)
    }
}
