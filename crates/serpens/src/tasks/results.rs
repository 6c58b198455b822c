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
        let columns = self.table.header.len();
        let rows = || std::iter::once(&self.table.header).chain(&self.table.rows);
        let width = |i: usize| {
            let cells = rows().filter_map(|row| row.get(i));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines: Vec<String> = rows()
            .map(|row| {
                let cells = row.iter().zip(&widths);
                let cells: Vec<String> = cells.map(|(c, w)| format!("{c:>w$}")).collect();
                cells.join("  ")
            })
            .collect();
        format!("\n{}\n\n{}\n", lines.join("\n"), self.sentence)
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
