//! A record of nucleotides, handed on in blocks as it is read.

use std::path::Path;

use super::lines::Lines;
use super::regions::{Region, Regions};
use super::{Ambiguity, DnaConfig, LowerCase};
use crate::Tokenizer;
use crate::content::{Block, Read, Take};
use crate::error::{Error, Result};
use crate::files::Found;
use crate::store::MOST_HELD;

/// Letters of a block, about.
const BLOCK: usize = if cfg!(test) { 50 } else { 1 << 20 };

/// Bytes of a header that are looked at: what a name has beyond them is not part of it.
const HEADER: usize = 1 << 10;

/// Letters that are no nucleotides but stand for several.
const AMBIGUOUS: &[u8] = b"RYSWKMBDHVN";
/// Letters that only proteins have, and the sign that ends some.
const PROTEIN: &[u8] = b"EFIJLOPQXZ*";

/// What letters are read as that are none of a record: refused, passed over, or where it is split.
const WRONG: u8 = 0;
const SPACE: u8 = 1;
const BREAK: u8 = 2;

/// What each byte is read as.
fn table(config: &DnaConfig) -> [u8; 256] {
    let mut table = [WRONG; 256];
    let unknown = match config.ambiguity {
        Ambiguity::Split => BREAK,
        Ambiguity::Unknown => b'N',
    };
    let mut set = |from: u8, to: u8| {
        table[usize::from(from)] = to;
        table[usize::from(from.to_ascii_lowercase())] = match config.lower_case {
            LowerCase::Fold => to,
            LowerCase::Keep => to.to_ascii_lowercase(),
        };
    };
    AMBIGUOUS.iter().for_each(|&letter| set(letter, unknown));
    let read_as = b"ACGTU".iter().zip(b"ACGTT");
    read_as.for_each(|(&from, &to)| set(from, to));
    (0..=255)
        .filter(u8::is_ascii_whitespace)
        .for_each(|byte| set(byte, SPACE));
    table
}

/// The present record, of which what is read is cut into stretches by regions and by ambiguous letters, and each of
/// these into blocks.
pub(super) struct Record<'a, 'b, E> {
    config: &'a DnaConfig,
    regions: Option<&'a Regions>,
    file: &'a Found,
    tokenizer: &'a Tokenizer,
    take: &'a mut Take<'b, E>,
    table: [u8; 256],
    header: Vec<u8>,
    name: String,
    /// Letters of it so far.
    at: u64,
    /// Its regions that do not end before.
    left: &'a [Region],
    /// Letters of the stretch that were not handed on.
    block: Vec<u8>,
    /// Where the stretch begins.
    from: u64,
    /// Whether a block of it was handed on.
    begun: bool,
    /// Letters that are waited for before they are cut.
    enough: usize,
    /// A piece of a line as it is read.
    read: Vec<u8>,
}

impl<'a, 'b, E: From<Error>> Record<'a, 'b, E> {
    pub(super) fn new(
        config: &'a DnaConfig,
        regions: Option<&'a Regions>,
        file: &'a Found,
        tokenizer: &'a Tokenizer,
        take: &'a mut Take<'b, E>,
    ) -> Self {
        Self {
            config,
            regions,
            file,
            tokenizer,
            take,
            table: table(config),
            header: Vec::new(),
            name: String::new(),
            at: 0,
            left: &[],
            block: Vec::new(),
            from: 0,
            begun: false,
            enough: BLOCK,
            read: Vec::new(),
        }
    }

    /// Reads a piece of the header, and begins the record at its end.
    pub(super) fn header(&mut self, lines: &Lines<'_>) {
        let room = HEADER - self.header.len();
        self.header.extend(lines.piece.iter().take(room));
        if lines.ends {
            let header = String::from_utf8_lossy(&self.header[1..]);
            self.name = header.split_whitespace().next().unwrap_or_default().into();
            self.header.clear();
            let regions = self.regions.and_then(|regions| regions.get(&self.name));
            (self.at, self.left) = (0, regions.map_or(&[][..], Vec::as_slice));
        }
    }

    /// Reads a piece of its letters.
    pub(super) fn letters(&mut self, lines: &Lines<'_>) -> Result<(), E> {
        let piece = lines.piece.trim_ascii_end();
        let mut read = std::mem::take(&mut self.read);
        read.clear();
        read.extend(piece.iter().map(|&byte| self.table[usize::from(byte)]));
        let mut done = 0;
        // Without a branch for each letter: few lines have others.
        if read
            .iter()
            .fold(true, |all, &letter| all & (letter > BREAK))
        {
            self.put(&read)?;
            done = read.len();
        }
        while done < read.len() {
            let plain = read[done..].iter().take_while(|&&letter| letter > BREAK);
            let end = done + plain.count();
            self.put(&read[done..end])?;
            match read.get(end) {
                Some(&BREAK) => {
                    self.end_stretch(false)?;
                    self.at += 1;
                }
                Some(&WRONG) => return Err(self.wrong(lines, no_nucleotide(piece[end])).into()),
                _ => {}
            }
            done = end + 1;
        }
        self.read = read;
        Ok(())
    }

    /// Refuses a quality of another length than the letters.
    pub(super) fn check_quality(&self, lines: &Lines<'_>, quality: u64) -> Result<()> {
        match self.at == quality {
            true => Ok(()),
            false => {
                let letters = self.at;
                let wrong =
                    format!("{letters} letters have a quality of {quality}: get the file anew");
                Err(self.wrong(lines, wrong))
            }
        }
    }

    /// Ends the record, where there is one.
    pub(super) fn end(&mut self) -> Result<(), E> {
        self.end_stretch(true)?;
        let beyond = self.left.iter().find(|region| region.to > self.at);
        if let (Some(region), Some(bed)) = (beyond, &self.config.regions) {
            let (name, letters) = (self.name.escape_debug(), self.at);
            let wrong = format!(
                "record `{name}` in `{}` has only {letters} letters: end the region there or before",
                self.file.path.display()
            );
            let place = format!(", line {}", region.line);
            return Err(Error::of_content(Path::new(bed), place, wrong).into());
        }
        Ok(())
    }

    /// What is wrong with it in this line.
    pub(super) fn wrong(&self, lines: &Lines<'_>, wrong: impl Into<String>) -> Error {
        let place = format!(", record `{}`{}", self.name.escape_debug(), lines.place());
        Error::of_content(&self.file.path, place, wrong.into())
    }

    /// Goes on with these letters.
    fn put(&mut self, mut letters: &[u8]) -> Result<(), E> {
        while !letters.is_empty() {
            let ended = self.left.iter().take_while(|region| region.to <= self.at);
            self.left = &self.left[ended.count()..];
            // Up to where they are all read, or none is.
            let (is_read, border) = match (self.regions, self.left.first()) {
                (None, _) => (true, u64::MAX),
                (_, None) => (false, u64::MAX),
                (_, Some(region)) if self.at < region.from => (false, region.from),
                (_, Some(region)) => (true, region.to),
            };
            let now = letters.len().min((border - self.at) as usize);
            if is_read {
                if self.block.is_empty() {
                    self.from = self.at;
                }
                self.block.extend_from_slice(&letters[..now]);
            }
            self.at += now as u64;
            letters = &letters[now..];
            if is_read && self.at == border {
                self.end_stretch(false)?;
            } else if self.block.len() >= self.enough {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Hands on what is there of a stretch that goes on, up to where the tokenizer may cut it; some is always left.
    fn cut(&mut self) -> Result<(), E> {
        let Some(end) = self.tokenizer.last_cut(&self.block) else {
            if self.block.len() > MOST_HELD {
                return Err(Error::LongDocument(self.file.path.clone()).into());
            }
            self.enough = 2 * self.block.len();
            return Ok(());
        };
        let mut later = Vec::with_capacity(BLOCK + self.block.len() - end);
        later.extend_from_slice(&self.block[end..]);
        self.block.truncate(end);
        let text = std::mem::replace(&mut self.block, later);
        self.enough = BLOCK;
        self.hand_on(text, None)
    }

    /// Hands on what is left of a stretch, where there is one, which ends here or with the record.
    fn end_stretch(&mut self, with_record: bool) -> Result<(), E> {
        self.enough = BLOCK;
        match std::mem::take(&mut self.block) {
            text if text.is_empty() => Ok(()),
            text => self.hand_on(text, Some(with_record)),
        }
    }

    fn hand_on(&mut self, text: Vec<u8>, end: Option<bool>) -> Result<(), E> {
        let (name, from) = (&self.name, self.from + 1);
        let region = self
            .left
            .first()
            .filter(|_| self.config.ambiguity == Ambiguity::Unknown);
        let name = match (end, region) {
            (Some(true), _) if self.from == 0 && self.regions.is_none() => name.clone(),
            (Some(_), _) => format!("{name}:{from}-{}", self.at),
            (None, Some(region)) => format!("{name}:{from}-{}", region.to),
            (None, None) => format!("{name}:{from}-"),
        };
        let begins = !std::mem::replace(&mut self.begun, end.is_none());
        (self.take)(Block::new(name, Read::Text(text), begins, end.is_some()))
    }
}

/// Why a letter is refused.
fn no_nucleotide(letter: u8) -> String {
    let shown = letter.escape_ascii();
    match letter.to_ascii_uppercase() {
        upper if PROTEIN.contains(&upper) => {
            format!("`{shown}` is no nucleotide, and this looks like a protein: give DNA or RNA")
        }
        b'-' | b'.' => format!("`{shown}` is a gap and no nucleotide: take the gaps out"),
        _ => format!("`{shown}` is no nucleotide: correct it"),
    }
}
