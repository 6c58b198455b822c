//! What comes of a run.

use serpens_nn::MambaLm;
use serpens_report::{LineChart, Table};

use super::Testing;
use crate::Result;

/// The end of a run: a table, and a figure where it helps.
pub(crate) struct Results {
    pub(crate) table: Table,
    pub(crate) figure: Option<LineChart>,
    /// The outcome in a sentence.
    pub(crate) sentence: String,
}

impl Results {
    /// A figure of each model, which `test` finds out. The table has no rows yet.
    pub(super) fn one_each(
        testing: &Testing<'_>,
        mut table: Table,
        outcome: &str,
        test: impl Fn(&MambaLm) -> Result<String>,
    ) -> Result<Self> {
        for model in testing.models {
            (testing.go_on)()?;
            let row = vec![model.name.to_owned(), test(&model.model)?];
            table.rows.push(row);
        }
        let figures: Vec<String> = table.rows.iter().map(|row| row.join(" ")).collect();
        Ok(Self {
            sentence: format!("{outcome}: {}.", figures.join(", ")),
            figure: None,
            table,
        })
    }

    /// The table for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let rows = || std::iter::once(&self.table.header).chain(&self.table.rows);
        let mut widths = vec![0; self.table.header.len()];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths);
            let cells: Vec<String> = cells.map(|(c, w)| format!("{c:>w$}")).collect();
            cells.join("  ")
        };
        let lines: Vec<String> = rows().map(line).collect();
        format!("\n{}\n\n{}\n", lines.join("\n"), self.sentence)
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
