//! The token map as a figure: panels over a common axis of tokens.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::bands::columns;
use super::layer::LayerFigure;
use crate::svg::{BOLD, Drawing, END, Face, Form, LETTER, MIDDLE, MONO, text_width};
use crate::text::{display_width, number, printable, truncate};
use crate::theme::{Inks, LIGHT};

pub(super) const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
/// Tokens of a short sequence are not stretched over the whole page.
const WIDEST_CELL: f64 = 44.0;
/// Where a figure may be wider than the page, each token has room for its letters.
const LEAST_CELL: f64 = 13.0;
/// Letters of a token at most, where they stand upright on end.
const TOKEN_LETTERS: usize = 14;

/// What is drawn of a [`super::TokenMap`], small enough to keep: channels in at most 48 bands, weights
/// of attention in at most 128 rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenFigure {
    /// Heading.
    pub title: String,
    /// What the reader should see in it.
    pub caption: String,
    pub(super) tokens: Vec<String>,
    pub(super) highlight: Vec<bool>,
    pub(super) layers: Vec<LayerFigure>,
}

/// What all layers share: the axis of tokens.
pub(super) struct Frame<'a> {
    figure: &'a TokenFigure,
    pub inks: &'a Inks,
    pub columns: Vec<Range<usize>>,
    pub cell: f64,
    /// The width that is seen at once.
    pub room: f64,
    /// Whether the figure may be wider than that; tokens are then explained to a pointer that rests on them.
    pub scrolls: bool,
}

impl Frame<'_> {
    /// What is no token.
    pub(super) fn note(&self) -> Face {
        Face::new(self.inks.muted)
    }

    pub(super) fn width(&self) -> f64 {
        self.cell * self.columns.len() as f64
    }

    pub(super) fn right(&self) -> f64 {
        LEFT + self.width()
    }

    /// The middle of a column.
    fn centre(&self, column: usize) -> f64 {
        LEFT + (column as f64 + 0.5) * self.cell
    }

    pub(super) fn is_highlighted(&self, column: usize) -> bool {
        let marks = &self.figure.highlight;
        let mut tokens = self.columns[column].clone();
        tokens.any(|token| marks.get(token).copied().unwrap_or(false))
    }

    /// The tokens of a column in words.
    pub(super) fn name_of(&self, column: usize) -> String {
        let Range { start, end } = self.columns[column];
        match end - start {
            1 => {
                let token = truncate(&printable(&self.figure.tokens[start]), TOKEN_LETTERS);
                format!("“{token}” at position {}", number(start as f64, 0))
            }
            _ => {
                let [first, last] = [start, end - 1].map(|token| number(token as f64, 0));
                format!("positions {first} to {last}")
            }
        }
    }
}

impl TokenFigure {
    /// The figure as an SVG file of its own. Per layer: the mean Δ of each token, Δ by channel on a logarithmic scale
    /// from the layer's smallest to its largest, and what is kept at the end; of attention, what each token gets in
    /// all, and the weights of queries (rows) over keys (columns).
    pub fn to_svg(&self, form: Form) -> String {
        let drawing = self.draw(form.width(), &LIGHT, false);
        drawing.into_file(form, &self.title, &self.caption)
    }

    /// The figure, `room` pixels wide, or wider if it `scrolls` and has many tokens.
    pub(crate) fn draw(&self, room: f64, inks: &Inks, scrolls: bool) -> Drawing {
        let tokens = self.tokens.len();
        if tokens == 0 || self.layers.is_empty() {
            return Drawing::without_data(room, inks);
        }
        let mut drawing = Drawing::new(room);
        let columns = columns(tokens);
        let least = if scrolls { LEAST_CELL } else { 0.0 };
        let fitting = (room - LEFT - RIGHT) / columns.len() as f64;
        let frame = Frame {
            figure: self,
            inks,
            cell: fitting.clamp(least, WIDEST_CELL),
            columns,
            room,
            scrolls,
        };
        drawing.width = room.max(frame.right() + RIGHT);
        let mut y = legend(&mut drawing, &frame);
        for layer in &self.layers {
            y = layer.draw(&mut drawing, &frame, y);
            y = token_axis(&mut drawing, &frame, y) + 22.0;
        }
        drawing.height = y - 14.0;
        drawing
    }
}

/// What the colours of the bars and tokens mean; returns where the first layer starts.
fn legend(drawing: &mut Drawing, frame: &Frame) -> f64 {
    if !frame.figure.highlight.contains(&true) {
        return 4.0;
    }
    let mut x = LEFT;
    for (fill, name) in [
        (frame.inks.accent, "carry data"),
        (frame.inks.quiet, "other tokens"),
    ] {
        drawing.rect(x, 4.0, 10.0, 10.0, fill);
        drawing.text(x + 15.0, 13.0, &frame.note(), name);
        x += 15.0 + text_width(name) + 18.0;
    }
    26.0
}

/// The tokens under the panels and their positions counted from 0; returns where the axis ends.
fn token_axis(drawing: &mut Drawing, frame: &Frame, top: f64) -> f64 {
    let mut y = top + 6.0;
    if frame.columns[0].len() == 1 {
        y = token_labels(drawing, frame, y);
    }
    // A power of two that leaves the numbers room.
    let apart = ((44.0 / frame.cell).ceil() as usize).next_power_of_two();
    for column in (0..frame.columns.len()).step_by(apart) {
        let x = frame.centre(column);
        let position = number(frame.columns[column].start as f64, 0);
        if x + text_width(&position) / 2.0 < frame.right() + RIGHT {
            drawing.line((x, y), (x, y + 3.0), frame.inks.muted);
            drawing.text(x, y + 14.0, &frame.note().with(MIDDLE), &position);
        }
    }
    drawing.text(LEFT - 6.0, y + 14.0, &frame.note().with(END), "position");
    y + 17.0
}

/// As many tokens as fit, upright where they all fit their cells, else on end; returns where they end.
fn token_labels(drawing: &mut Drawing, frame: &Frame, y: f64) -> f64 {
    let label = |token: &String| truncate(&printable(token), TOKEN_LETTERS);
    let labels: Vec<String> = frame.figure.tokens.iter().map(label).collect();
    let letters = labels.iter().map(|label| display_width(label)).max();
    let widest = letters.unwrap_or(0) as f64 * LETTER * 0.602;
    // A single letter is upright however narrow its cell: then some are left out.
    let flat = widest <= (frame.cell - 1.0).max(LETTER * 0.61);
    let room = match flat {
        true if widest <= frame.cell => widest,
        // Letters that are not neighbours must not read as a word.
        true => widest + 8.0,
        false => LETTER,
    };
    for column in spread(frame, room) {
        let (fill, weight) = match frame.is_highlighted(column) {
            true => (frame.inks.accent, BOLD),
            false => (frame.inks.ink, ""),
        };
        let anchor = if flat { MIDDLE } else { END };
        let face = Face::new(fill).with(anchor).with(weight).with(MONO);
        let (x, label) = (frame.centre(column), &labels[column]);
        match flat {
            true => drawing.text(x, y + 10.0, &face, label),
            false => drawing.upward(x + 4.0, y, &face, label),
        }
    }
    y + if flat { 15.0 } else { widest + 4.0 }
}

/// The columns whose tokens are printed when each needs `room` pixels: all if they fit, else those that carry data
/// first, then every so many of the others.
fn spread(frame: &Frame, room: f64) -> Vec<usize> {
    let count = frame.columns.len();
    let apart = (room / frame.cell - 1e-6).ceil().max(1.0) as usize;
    let mut chosen: Vec<usize> = Vec::new();
    let marked = (0..count).filter(|column| frame.is_highlighted(*column));
    for column in marked.chain((0..count).step_by(apart)) {
        if chosen.iter().all(|other| other.abs_diff(column) >= apart) {
            chosen.push(column);
        }
    }
    chosen
}
