//! The report of a run: one HTML file that stands alone.
//!
//! A [`Report`] holds plain data: curves, tables, selection maps, samples and what is needed to repeat the run.
//! [`Report::to_html`] turns it into a page without scripts, fonts or links to elsewhere; figures are inline SVG and
//! follow the reader's light or dark mode. [`SelectionMap`] and [`LineChart`] also draw themselves as SVG files of
//! their own, for a README or a paper, and a selection map prints to a terminal.

mod axis;
mod line_chart;
mod page;
mod selection;
mod share;
mod svg;
mod text;
mod theme;

#[cfg(test)]
mod tests;

pub use axis::Scale;
pub use line_chart::{LineChart, Series};
pub use selection::{LayerSelection, SelectionMap};
pub use share::Share;
pub use text::grouped;

/// Everything that one page shows about a run, in the order of the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What came out, in one or two sentences.
    pub summary: String,
    /// When the run ended, as it should be printed.
    pub date: String,
    /// Curves: losses, accuracies, throughputs.
    pub figures: Vec<LineChart>,
    /// Tables of results.
    pub tables: Vec<Table>,
    /// What the selective layers did with example sequences.
    pub maps: Vec<SelectionMap>,
    /// Preformatted texts, each with a heading: samples, logs.
    pub texts: Vec<(String, String)>,
    /// The exact command that repeats the run.
    pub command: String,
    /// Facts of the machine: (name, value).
    pub machine: Vec<(String, String)>,
    /// The full configuration, as TOML.
    pub config_toml: String,
}

/// A table of results. Columns whose cells are all numbers are set flush right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Heading above the table.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells, row by row; a row may be shorter than the header.
    pub rows: Vec<Vec<String>>,
    /// What the reader should see in it.
    pub caption: String,
}
