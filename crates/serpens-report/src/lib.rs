//! The report of a run: one HTML file that stands alone.
//!
//! A [`Report`] holds plain data: curves, confusion matrices, sounds, tables, token maps, samples and what is needed to
//! repeat the run. [`Report::to_html`] turns it into a page without scripts, fonts or links to elsewhere; figures are
//! inline SVG and follow the reader's light or dark mode. A [`Figure`] and a [`TokenFigure`] also draw themselves as
//! SVG files of their own, for a README or a paper, and a [`TokenMap`] prints to a terminal. All of it is kept with
//! serde and drawn again, whatever a file says.
//!
//! ```
//! use serpens_report::{ConfusionMatrix, Form, LayerMap, LayerSelection, LineChart, Report, Series, Share};
//! use serpens_report::{Sound, Spectrogram, TokenMap, Waveform};
//!
//! // Of 32 sequences of each length so many were answered rightly.
//! let shares = [(64.0, 32), (128.0, 31), (256.0, 17)].map(|(x, right)| (x, Share { right, of: 32 }));
//! let accuracy = Series {
//!     name: "a model".into(),
//!     points: shares.iter().map(|(x, share)| (*x, share.value())).collect(),
//!     intervals: shares.iter().map(|(_, share)| share.interval()).collect(),
//! };
//! let chart = LineChart {
//!     title: "Accuracy against length".into(),
//!     y_label: "accuracy, %".into(),
//!     y_range: Some((0.0, 1.0)),
//!     series: vec![accuracy],
//!     reference_lines: vec![("chance".into(), 1.0 / 15.0)],
//!     ..LineChart::default()
//! };
//! assert!(chart.to_svg(Form::Paper(3.3)).contains("width=\"3.3in\""));
//!
//! let matrix = ConfusionMatrix {
//!     classes: ["yes", "no"].map(String::from).to_vec(),
//!     counts: vec![vec![48, 2], vec![5, 45]], // (true class, answered)
//!     caption: "Accuracy 93 %.".into(),
//!     ..ConfusionMatrix::default()
//! };
//!
//! let samples: Vec<f32> = (0..8000).map(|i| (i as f32 * 0.3).sin()).collect();
//! let decibels = vec![vec![-60.0; 129]; 100]; // (length, bins)
//! let sound = Sound {
//!     title: "A tone that is heard as yes".into(),
//!     waveform: Waveform::new(&samples, 8000),
//!     spectrogram: Spectrogram::new(&decibels, 8000, 80),
//!     ..Sound::default()
//! };
//!
//! let map = TokenMap {
//!     tokens: ["a", "key", "here"].map(String::from).to_vec(),
//!     layers: vec![LayerMap::Selection(LayerSelection {
//!         name: "layer 1".into(),
//!         channels: 2,
//!         delta: vec![0.01, 0.02, 2.0, 0.5, 0.02, 0.01], // (length, channels)
//!         ..LayerSelection::default()
//!     })],
//!     ..TokenMap::default()
//! };
//! println!("{}", map.to_text(80, true));
//! assert!(map.to_text(80, false).contains("mean Δ from 0.015 ▁ to 1.2 █"));
//!
//! let report = Report {
//!     title: "A run".into(),
//!     figures: vec![chart.into(), matrix.into(), sound.into()],
//!     maps: vec![map.figure()],
//!     ..Report::default()
//! };
//! let page = report.to_html();
//! assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<audio controls"));
//! ```

mod axis;
mod confusion;
mod encode;
mod figure;
mod groups;
mod heat;
mod line_chart;
mod page;
#[cfg(feature = "paper")]
pub mod paper;
mod plot;
mod selection;
mod share;
mod sound;
mod svg;
mod text;
mod theme;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use axis::Scale;
pub use confusion::ConfusionMatrix;
pub use figure::Figure;
pub use line_chart::{LineChart, Series};
pub use selection::{LayerAttention, LayerMap, LayerSelection, TokenFigure, TokenMap};
pub use share::Share;
pub use sound::{Sound, Spectrogram, Waveform};
pub use svg::Form;
pub use text::{grouped, wrap};

/// Everything that one page shows about a run, in the order of the page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What came out, in one or two sentences.
    pub summary: String,
    /// When the run ended, as it should be printed.
    pub date: String,
    /// Curves, confusion matrices, sounds.
    pub figures: Vec<Figure>,
    /// Tables of results.
    pub tables: Vec<Table>,
    /// What layers did with the tokens of example sequences.
    pub maps: Vec<TokenFigure>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
