//! A small writer of SVG: the few shapes that the figures need, numbers kept short and always finite.

use crate::text::{display_width, escape, trimmed, wrap};
use crate::theme::{DARK, Inks, LIGHT};

const XMLNS: &str = r#" xmlns="http://www.w3.org/2000/svg""#;
const SANS: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif";
/// Space around a figure that is a file of its own.
const MARGIN: f64 = 16.0;
/// Size of all letters but titles, in pixels; on paper they have [`PAPER_LETTER`].
pub(super) const LETTER: f64 = 11.0;
/// Size of the letters on paper, in inches: 8 points.
const PAPER_LETTER: f64 = 8.0 / 72.0;
/// Width of what such a file shows between its margins; the file has 960 pixels.
const FILE_WIDTH: f64 = 960.0 - 2.0 * MARGIN;

/// Where a figure that is a file of its own will be seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// On a page, be it light or dark: 960 pixels wide, with title, caption and background.
    Page,
    /// In a paper, so many inches wide: letters have 8 points, title and caption are the paper's.
    Paper(f64),
}

impl Form {
    /// The width in a [`Drawing`]'s pixels.
    pub(super) fn width(self) -> f64 {
        match self {
            Form::Page => FILE_WIDTH,
            Form::Paper(inches) => inches.clamp(1.5, 20.0) / PAPER_LETTER * LETTER,
        }
    }
}

/// In the middle of its point, rather than from there on.
pub(super) const MIDDLE: &str = r#" text-anchor="middle""#;
/// Up to its point.
pub(super) const END: &str = r#" text-anchor="end""#;
pub(super) const BOLD: &str = r#" font-weight="600""#;
pub(super) const MONO: &str = r#" font-family="ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace""#;
/// Round corners and ends of a line.
pub(super) const ROUND: &str = r#" stroke-linejoin="round" stroke-linecap="round""#;

/// How a text is set, as attributes.
#[derive(Clone)]
pub(super) struct Face(String);

impl Face {
    pub(super) fn new(fill: &str) -> Self {
        Self::sized(LETTER, fill)
    }

    fn sized(size: f64, fill: &str) -> Self {
        Face(format!(r#" font-size="{}" fill="{fill}""#, short(size)))
    }

    /// The same face with [`MIDDLE`], [`END`], [`BOLD`] or [`MONO`].
    pub(super) fn with(&self, attribute: &str) -> Self {
        Face(self.0.clone() + attribute)
    }
}

/// A figure in the making: shapes, and the size that they need.
pub(super) struct Drawing {
    pub shapes: String,
    pub width: f64,
    pub height: f64,
}

impl Drawing {
    pub(super) fn new(width: f64) -> Self {
        Drawing {
            shapes: String::new(),
            width,
            height: 0.0,
        }
    }

    /// A figure of no data says so.
    pub(super) fn without_data(width: f64, inks: &Inks) -> Self {
        let mut drawing = Self::new(width);
        drawing.text(0.0, 14.0, &Face::new(inks.muted), "Nothing was recorded.");
        drawing.height = 20.0;
        drawing
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let [x, y, width, height] = [x, y, width, height].map(short);
        self.shapes += &format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>\n"
        );
    }

    /// A thin straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str) {
        self.stroke(&segment(from, to), stroke, 1.0, &[]);
    }

    /// A path that is filled.
    pub(super) fn fill(&mut self, d: &str, fill: &str) {
        self.shapes += &format!("<path d=\"{d}\" fill=\"{fill}\"/>\n");
    }

    /// A path that is drawn as a line, with more attributes.
    pub(super) fn stroke(&mut self, d: &str, stroke: &str, width: f64, more: &[&str]) {
        if d.is_empty() {
            return;
        }
        let (width, more) = (short(width), more.concat());
        self.shapes += &format!(
            "<path d=\"{d}\" stroke=\"{stroke}\" stroke-width=\"{width}\" fill=\"none\"{more}/>\n"
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, face: &Face, text: &str) {
        if text.is_empty() {
            return;
        }
        let ([x, y], face, text) = ([x, y].map(short), &face.0, escape(text));
        self.shapes += &format!("<text x=\"{x}\" y=\"{y}\"{face}>{text}</text>\n");
    }

    /// A text that reads upwards.
    pub(super) fn upward(&mut self, x: f64, y: f64, face: &Face, text: &str) {
        let turn = format!(r#" transform="rotate(-90 {} {})""#, short(x), short(y));
        self.text(x, y, &face.with(&turn), text);
    }

    /// The figure as part of a page, which sets the background, the title and the caption.
    pub(super) fn inline(self, label: &str) -> String {
        let (size, more) = ((self.width, self.height), size(self.width, self.height, ""));
        element(&more, label, size, &self.shapes)
    }

    /// The figure, drawn with [`LIGHT`] at the width of its form, as a file of its own.
    pub(super) fn into_file(self, form: Form, title: &str, caption: &str) -> String {
        if let Form::Paper(_) = form {
            let [width, height] =
                [self.width, self.height].map(|pixels| pixels / LETTER * PAPER_LETTER);
            let size = XMLNS.to_owned() + &size(width, height, "in");
            return element(&size, title, (self.width, self.height), &self.shapes);
        }
        let lines = wrap(caption, (self.width / text_width("x")) as usize);
        let top = MARGIN + if title.is_empty() { 0.0 } else { 30.0 };
        let bottom = top + self.height + 8.0;
        let width = self.width + 2.0 * MARGIN;
        let height = bottom + 17.0 * lines.len() as f64 + MARGIN - 8.0;
        let mut page = Drawing::new(width);
        let dark = LIGHT.turned(&DARK);
        page.shapes = format!("<style>@media (prefers-color-scheme:dark){{{dark}}}</style>\n");
        page.rect(0.0, 0.0, width, height, LIGHT.paper);
        let face = Face::sized(16.0, LIGHT.ink).with(BOLD);
        page.text(MARGIN, MARGIN + 14.0, &face, title);
        for (i, line) in (1..).zip(&lines) {
            let baseline = bottom + 17.0 * f64::from(i) - 4.0;
            page.text(MARGIN, baseline, &Face::new(LIGHT.muted), line);
        }
        let ([x, y], shapes) = ([MARGIN, top].map(short), self.shapes);
        page.shapes += &format!("<g transform=\"translate({x} {y})\">\n{shapes}</g>\n");
        let file = XMLNS.to_owned() + &size(width, height, "");
        element(&file, title, (width, height), &page.shapes)
    }
}

fn size(width: f64, height: f64, unit: &str) -> String {
    let [width, height] = [width, height].map(short);
    format!(r#" width="{width}{unit}" height="{height}{unit}""#)
}

fn element(attributes: &str, label: &str, (width, height): (f64, f64), shapes: &str) -> String {
    let (width, height, label) = (short(width), short(height), escape(label));
    format!(
        "<svg{attributes} viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\" font-family=\"{SANS}\">\n{shapes}</svg>\n"
    )
}

/// The path of a straight line.
pub(super) fn segment(from: (f64, f64), to: (f64, f64)) -> String {
    let [x, y, to_x, to_y] = [from.0, from.1, to.0, to.1].map(short);
    format!("M{x} {y}L{to_x} {to_y}")
}

/// A coordinate with at most two decimals; what is not finite is 0, so that a figure never holds "NaN".
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_string();
    }
    match trimmed(&format!("{value:.2}")) {
        "-0" => "0".to_string(),
        text => text.to_string(),
    }
}

/// About how wide a text of [`LETTER`]s is in the sans face, in pixels: figures are laid out without knowing the
/// reader's font.
pub(super) fn text_width(text: &str) -> f64 {
    display_width(text) as f64 * LETTER * 0.56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_short_and_finite() {
        assert_eq!(short(12.0), "12");
        assert_eq!(short(-0.001), "0");
        assert_eq!(short(1.2345), "1.23");
        assert_eq!(short(f64::NAN), "0");
        assert_eq!(short(f64::INFINITY), "0");
    }

    #[test]
    fn a_figure_of_its_own_has_the_size_that_it_says() {
        let mut drawing = Drawing::new(FILE_WIDTH);
        drawing.height = 100.0;
        let file = drawing.into_file(Form::Page, "", "");
        let size = r#" width="960" height="132" viewBox="0 0 960 132""#;
        assert!(file.contains(size), "{file}");
        let form = Form::Paper(3.3);
        let mut drawing = Drawing::new(form.width());
        drawing.height = drawing.width / 2.0;
        let file = drawing.into_file(form, "", "");
        // 8 points are 1 / 29.7 of 3.3 inches.
        let size = r#" width="3.3in" height="1.65in" viewBox="0 0 326.7 163.35""#;
        assert!(file.contains(size) && LETTER * 29.7 == 326.7, "{file}");
    }
}
