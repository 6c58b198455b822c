//! Tables of measurements, for people and for programs.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use serpens_core::{Device, cuda};

use crate::output::significant;

/// One measurement.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// What was done, with its sizes.
    pub(super) work: String,
    /// The result.
    pub(super) value: f64,
    /// Its unit.
    pub(super) unit: &'static str,
    /// Other figures of the same run: name and value.
    pub(super) notes: Vec<(&'static str, f64)>,
    /// The sizes by their names, for programs, where they are told.
    #[serde(flatten)]
    pub(super) sizes: Option<Value>,
}

impl Row {
    pub(super) fn new(work: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            work: work.into(),
            value,
            unit,
            notes: Vec::new(),
            sizes: None,
        }
    }

    /// With a figure, where it is known.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Option<f64>>) -> Self {
        self.notes.extend(value.into().map(|value| (name, value)));
        self
    }
}

/// Measurements that belong together.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let widths = self.rows.iter().map(|row| row.work.chars().count());
        let width = widths.max().unwrap_or(0);
        for row in &self.rows {
            let (work, value, unit) = (&row.work, significant(row.value), row.unit);
            write!(f, "  {work:<width$}  {value:>10} {unit}")?;
            for (name, value) in &row.notes {
                write!(f, "  {name} {:>5}", significant(*value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// All tables as one JSON object.
pub(super) fn to_json(tables: &[Table], device: Device) -> String {
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "device": device.to_string(),
        "card": cuda::properties(device).ok().map(|card| &card.name),
        "simd": serpens_ops::simd::Isa::current().name(),
        "threads": rayon::current_num_threads(),
        "tables": tables,
    })
    .to_string()
}
