//! What comes of a run.

use serpens_ops::cross_entropy::Totals;
use serpens_report::{Figure, Share, Table};

use super::trained::Trained;
use crate::Result;
use crate::output::aligned;

/// The end of a run: a table, and a figure where it helps.
pub(crate) struct Results {
    pub(crate) table: Table,
    pub(crate) figures: Vec<Figure>,
    /// The outcome in a sentence.
    pub(crate) sentence: String,
}

impl Results {
    /// A figure of each model, which `test` finds out, above the row of another. The table has no rows yet.
    pub(super) fn one_each<M>(
        trained: &[Trained<M>],
        mut table: Table,
        others: Option<Vec<String>>,
        outcome: &str,
        test: impl Fn(&Trained<M>) -> Result<String>,
    ) -> Result<Self> {
        for model in trained {
            let row = vec![model.name.to_owned(), test(model)?];
            table.rows.push(row);
        }
        table.rows.extend(others);
        let figures: Vec<String> = table.rows.iter().map(|row| row.join(" ")).collect();
        Ok(Self {
            sentence: format!("{outcome}: {}.", figures.join(", ")),
            figures: Vec::new(),
            table,
        })
    }

    /// The table for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let rows = std::iter::once(&self.table.header).chain(&self.table.rows);
        let (table, caption) = (aligned(rows), &self.table.caption);
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
