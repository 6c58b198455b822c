//! A small writer of SVG: the few shapes that the figures need, numbers kept short and always finite.

use crate::text::{display_width, escape, wrap};
use crate::theme::Inks;

const SANS: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif";
/// Space around a figure that is a file of its own.
const MARGIN: f64 = 16.0;
/// Width of what such a file shows between its margins; the file has 960 pixels.
pub(super) const FILE_WIDTH: f64 = 960.0 - 2.0 * MARGIN;

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
    pub(super) fn new(size: f64, fill: &str) -> Self {
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

    /// The figure as part of a page, which sets the font, the background, the title and the caption.
    pub(super) fn inline(self, label: &str) -> String {
        element("", label, (self.width, self.height), &self.shapes)
    }

    /// The figure as a file of its own, with background, title and caption.
    pub(super) fn standalone(self, title: &str, caption: &str, inks: &Inks) -> String {
        let lines = wrap(caption, (self.width / text_width("x", 12.0)) as usize);
        let top = MARGIN + if title.is_empty() { 0.0 } else { 30.0 };
        let bottom = top + self.height + 8.0;
        let width = self.width + 2.0 * MARGIN;
        let height = bottom + 17.0 * lines.len() as f64 + MARGIN - 8.0;
        let mut page = Drawing::new(width);
        page.rect(0.0, 0.0, width, height, inks.paper);
        let face = Face::new(16.0, inks.ink).with(BOLD);
        page.text(MARGIN, MARGIN + 14.0, &face, title);
        for (i, line) in (1..).zip(&lines) {
            let baseline = bottom + 17.0 * f64::from(i) - 4.0;
            page.text(MARGIN, baseline, &Face::new(12.0, inks.muted), line);
        }
        page.shapes += &format!(
            "<g transform=\"translate({} {})\">\n{}</g>\n",
            short(MARGIN),
            short(top),
            self.shapes
        );
        let [w, h] = [width, height].map(short);
        let file = format!(r#" xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}""#);
        element(&file, title, (width, height), &page.shapes)
    }
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
    let text = format!("{value:.2}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_string(),
        text => text.to_string(),
    }
}

/// About how wide a text is in the sans face, in pixels: figures are laid out without knowing the reader's font.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    display_width(text) as f64 * size * 0.56
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
        let file = drawing.standalone("", "", &crate::theme::LIGHT);
        let size = r#" width="960" height="132" viewBox="0 0 960 132""#;
        assert!(file.contains(size), "{file}");
    }
}
