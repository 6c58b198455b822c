//! The metrics of a run as a file of JSON lines.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serpens_core::files::{self, Accept, Durability, write_atomically};

use crate::{Error, Event, Observer, Result};

/// Writes a line of JSON for every [`Event::Stepped`] (the fields of [`crate::StepMetrics`]) and every
/// [`Event::Evaluated`] (`step` and the figures under `evaluation`).
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file to go on after step `step`. Lines of later steps, left by a sitting that ended without a
    /// checkpoint, are cut off, as is a line that was not written to its end: every step is there once.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let file = files::open(path, Accept::Files);
        let old = match file.and_then(|file| files::text(files::read(file, u64::MAX)?)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            old => old.map_err(|e| Error::io("read", path, e))?,
        };
        let done = |line: &&str| line.ends_with('\n') && step_of(line).is_some_and(|of| of <= step);
        let kept: String = old.split_inclusive('\n').filter(done).collect();
        if kept != old {
            write_atomically(path, Durability::OnDisk, |file| {
                file.write_all(kept.as_bytes())
            })
            .map_err(|e| Error::io("write", path, e))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            file: file.map_err(|e| Error::io("write", path, e))?,
            path: path.to_owned(),
        })
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n"); // one write, so that no reader sees half a line
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|e| Error::io("write", &self.path, e))
    }
}

/// The step that a line speaks of.
fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line)
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
            Event::Checkpointing { .. } => {
                let synced = self.file.sync_data();
                synced.map_err(|e| Error::io("write", &self.path, e))
            }
            Event::Started { .. } | Event::Checkpointed { .. } | Event::Warned(_) => Ok(()),
        }
    }
}
