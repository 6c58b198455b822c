//! The metrics of a run as a file of JSON lines.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serpens_core::files::{self, Accept, FileError};

use crate::{Error, Event, Observer, Result};

/// Writes a line of JSON for every [`Event::Stepped`] (the fields of [`crate::StepMetrics`]) and every
/// [`Event::Evaluated`] (`step` and the figures under `evaluation`). They are on disk before a checkpoint is.
pub struct JsonLines {
    path: PathBuf,
    file: File,
    is_empty: bool,
    broken: usize,
}

/// The most bytes of a line: what is longer was not written here.
const MOST_LINE: u64 = 1 << 16;

impl JsonLines {
    /// Opens the file to go on after step `step`. Lines of later steps, left by a sitting that ended without a
    /// checkpoint, are cut off, as is a line that was not written to its end: every step is there once. Other lines
    /// that tell nothing are left out, which [`JsonLines::broken`] says.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let (mut kept, mut broken, mut bytes) = (Vec::new(), 0, 0);
        let mut read = |file| {
            let (mut file, mut line) = (BufReader::new(file), Vec::new());
            while (&mut file).take(MOST_LINE).read_until(b'\n', &mut line)? > 0 {
                bytes += line.len();
                match step_of(&line) {
                    // A kill cut it off.
                    _ if !line.ends_with(b"\n") && (line.len() as u64) < MOST_LINE => {}
                    Some(of) if of <= step => kept.extend_from_slice(&line),
                    Some(_) => {}
                    None => broken += 1,
                }
                line.clear();
            }
            Ok(())
        };
        match files::open(path, Accept::Files) {
            Err(e) if e.source.kind() == ErrorKind::NotFound => {}
            file => read(file?).map_err(FileError::of("read", path))?,
        }
        if kept.len() != bytes {
            files::write_bytes(path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let folder = path.parent().unwrap_or(Path::new(""));
        let file = file.and_then(|file| files::sync_folder(folder).map(|()| file));
        Ok(Self {
            file: file.map_err(FileError::of("write", path))?,
            path: path.to_owned(),
            is_empty: kept.is_empty(),
            broken,
        })
    }

    /// [`Error::BrokenLines`] where lines were left out that told nothing.
    pub fn broken(&self) -> Option<Error> {
        let (path, count) = (self.path.clone(), self.broken);
        (count > 0).then_some(Error::BrokenLines { path, count })
    }

    /// [`Error::NoLines`] where there was no line up to the step.
    pub fn missing(&self) -> Option<Error> {
        self.is_empty.then(|| Error::NoLines(self.path.clone()))
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n"); // one write, so that no reader sees half a line
        let written = self.file.write_all(line.as_bytes());
        Ok(written.map_err(FileError::of("write", &self.path))?)
    }
}

/// The step that a line speaks of.
fn step_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line)
        .ok()?
        .get("step")?
        .as_u64()
}

impl Observer for JsonLines {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Stepped(metrics) => self.write(&serde_json::json!(metrics)),
            Event::Evaluated { step, evaluation } => {
                let values = evaluation.values.iter().map(|(name, value)| (name, value));
                let values: BTreeMap<_, _> = values.collect();
                self.write(&serde_json::json!({ "step": step, "evaluation": values }))
            }
            Event::Checkpointing => {
                let synced = self.file.sync_data();
                Ok(synced.map_err(FileError::of("write", &self.path))?)
            }
            Event::Started { .. } | Event::Checkpointed { .. } | Event::Warned(_) => Ok(()),
        }
    }
}
