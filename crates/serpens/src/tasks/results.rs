//! What comes of a run.

use serpens_ops::cross_entropy::Totals;
use serpens_report::{LineChart, Share, Table};

use super::trained::Trained;
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
        trained: &[Trained],
        mut table: Table,
        outcome: &str,
        test: impl Fn(&Trained) -> Result<String>,
    ) -> Result<Self> {
        for model in trained {
            let row = vec![model.name.to_owned(), test(model)?];
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
        let (table, caption) = (lines.join("\n"), &self.table.caption);
        format!("{table}\n\n{caption}\n{}\n", self.sentence)
    }
}

/// How many of the answers were right.
pub(super) fn share(totals: &Totals) -> Share {
    Share {
        right: totals.correct as u64,
        of: totals.count as u64,
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
