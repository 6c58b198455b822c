//! Rows of numbers: CSV.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::{BufRead, Chain, Read as _};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde::{Deserialize, Serialize};
use serpens_core::files::FileError;
use smart_default::SmartDefault;

use super::{Block, Read, Take};
use crate::error::{Error, Result};
use crate::files::{Found, open};

/// What becomes of an empty cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gaps {
    /// The file is refused.
    #[default]
    Refuse,
    /// It has the value of the row before it.
    Hold,
}

/// How tables are read: a row is a position of the sequence, and columns are its channels; a file is a record.
///
/// The first row names the columns; where it holds numbers alone it is data, and they are called 1, 2, …. Cells may be
/// quoted, and are numbers with a decimal point, finite as `f32`; empty lines are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TableConfig {
    /// The names of the columns, in the order of channels; without them, all whose first cell is a number or empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// What stands between cells.
    #[default = ',']
    pub delimiter: char,
    /// What becomes of an empty cell.
    pub gaps: Gaps,
}

/// Values of a block, about: 1 MiB.
const BLOCK: usize = 1 << 18;

/// A file whose header was read.
struct Table<'a> {
    path: &'a Path,
    reader: Reader<Chain<Box<dyn BufRead + Send>, &'static [u8]>>,
    /// Of all columns.
    names: Vec<String>,
    /// Places of those that are read.
    chosen: Vec<usize>,
    /// The first row of numbers.
    row: ByteRecord,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path, config: &TableConfig) -> Result<Self> {
        let wrong = |wrong: String| Err(Error::of_content(path, "", wrong));
        let delimiter = config.delimiter;
        if !delimiter.is_ascii() || "\"\r\n".contains(delimiter) {
            return wrong(format!(
                "{delimiter:?} cannot stand between cells: set another `delimiter`"
            ));
        }
        let mut builder = ReaderBuilder::new();
        // Rows end at line feeds alone, the last one too, so that it is known which line a row is; what carriage
        // returns stand before them are trimmed with other white space.
        builder
            .terminator(Terminator::Any(b'\n'))
            .delimiter(delimiter as u8);
        builder.has_headers(false).flexible(true);
        let reader = builder.from_reader(open(path)?.chain(&b"\n"[..]));
        let (names, chosen, row) = (Vec::new(), Vec::new(), ByteRecord::new());
        let mut table = Self {
            path,
            reader,
            names,
            chosen,
            row,
        };
        let any = table.advance()?;
        let headless = table.row.iter().all(|cell| number(cell).is_some());
        table.names = match headless {
            true => (1..=table.row.len())
                .map(|column| column.to_string())
                .collect(),
            false => table
                .row
                .iter()
                .map(|cell| shown(cell).trim().to_owned())
                .collect(),
        };
        if !any || (!headless && !table.advance()?) {
            return wrong("it has no row below its header: leave it out".into());
        }
        let numeric = |cell: &[u8]| {
            let point = shown(cell).replace(',', "."); // a comma is told of where the value is read
            point.trim().is_empty() || point.trim().parse::<f32>().is_ok()
        };
        for name in &config.columns {
            let Some(place) = table.names.iter().position(|other| other == name) else {
                let names = table.names.join("`, `");
                return wrong(format!("it has no column `{name}`: choose of `{names}`"));
            };
            table.chosen.push(place);
        }
        if config.columns.is_empty() {
            let cells = table.row.iter().enumerate();
            table.chosen.extend(
                cells
                    .filter(|(_, cell)| numeric(cell))
                    .map(|(place, _)| place),
            );
        }
        match table.chosen.is_empty() {
            true => wrong(
                "none of its columns begins with a number: set its `delimiter`, or leave it out"
                    .into(),
            ),
            false => Ok(table),
        }
    }

    /// Reads the next row; whether there was one.
    fn advance(&mut self) -> Result<bool> {
        let read = loop {
            let read = self.reader.read_byte_record(&mut self.row);
            let read = read.map_err(|error| FileError::of("read", self.path)(error.into()))?;
            let blank = self.row.iter().all(|cell| cell.trim_ascii().is_empty());
            if !read || !blank || self.row.len() > 1 {
                break read;
            }
        };
        let (cells, columns) = (self.row.len(), self.names.len());
        if read && columns > 0 && cells != columns {
            let wrong = format!(
                "it has {cells} cells where the first row has {columns}: complete it, or set another `delimiter`"
            );
            return Err(Error::of_content(
                self.path,
                format!(", line {}", self.line()),
                wrong,
            ));
        }
        Ok(read)
    }

    /// The line that the row ends at, from 1 on.
    fn line(&self) -> u64 {
        self.reader.position().line() - 1
    }

    /// The value of a column in this row, given what it was in the row before.
    fn value(&self, place: usize, before: Option<f32>, gaps: Gaps) -> Result<f32> {
        let cell = &self.row[place];
        if let Some(value) = number(cell) {
            return Ok(value);
        }
        let text = shown(cell.trim_ascii());
        let wrong = match (text.is_empty(), gaps, before) {
            (true, Gaps::Hold, Some(before)) => return Ok(before),
            (true, Gaps::Hold, None) => "it is empty, with no value before it: fill it".into(),
            (true, Gaps::Refuse, _) => "it is empty: fill it, or set `gaps` to \"hold\"".into(),
            (false, ..) => {
                let short: String = text.chars().take(40).collect();
                let cause = if text.contains(',') {
                    "write a decimal point, not a comma"
                } else {
                    "write one, or choose other `columns`"
                };
                format!("{short:?} is no finite number: {cause}")
            }
        };
        let place = format!(", line {}, column `{}`", self.line(), self.names[place]);
        Err(Error::of_content(self.path, place, wrong))
    }
}

/// A cell as a number.
fn number(cell: &[u8]) -> Option<f32> {
    let value: f32 = std::str::from_utf8(cell).ok()?.trim().parse().ok()?;
    value.is_finite().then_some(value)
}

/// A cell as text.
fn shown(cell: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(cell)
}

/// The names of the columns that are read of a file, in the order of channels.
///
/// # Errors
/// Those of the system, and of a file without these columns or without rows.
pub fn columns(path: &Path, config: &TableConfig) -> Result<Vec<String>> {
    let table = Table::open(path, config)?;
    let names = table.chosen.iter().map(|&place| table.names[place].clone());
    let names: Vec<String> = names.collect();
    let twice = names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name));
    match twice {
        Some((_, name)) => {
            let wrong = format!("two columns are called `{name}`: give each a name of its own");
            Err(Error::of_content(path, ", line 1", wrong))
        }
        None => Ok(names),
    }
}

pub(super) fn read<E: From<Error>>(
    config: &TableConfig,
    file: &Found,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let mut table = Table::open(&file.path, config)?;
    let channels = table.chosen.len();
    let mut before = vec![None; channels];
    let (mut values, mut begins) = (Vec::new(), true);
    let mut put = |values: Vec<f32>, ends| {
        let (name, begins) = (String::new(), std::mem::take(&mut begins));
        let read = Read::Values { values, channels };
        take(Block::new(name, read, begins, ends))
    };
    loop {
        for (&place, before) in table.chosen.iter().zip(&mut before) {
            let value = table.value(place, *before, config.gaps)?;
            *before = Some(value);
            values.push(value);
        }
        if !table.advance()? {
            return put(values, true);
        }
        if values.len() >= BLOCK {
            put(std::mem::take(&mut values), false)?;
        }
    }
}
