//! A small writer of SVG: the few shapes that the figures need, numbers kept short and always finite.

use crate::text::{display_width, escape, wrap};
use crate::theme::Inks;

const SANS: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif";
const MONO: &str =
    "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace";

/// Space around a figure that is a file of its own.
const MARGIN: f64 = 16.0;
/// Width of what such a file shows between its margins; the file has 960 pixels.
pub(super) const FILE_WIDTH: f64 = 960.0 - 2.0 * MARGIN;

/// Where a text stands from its point.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set.
#[derive(Clone, Copy)]
pub(super) struct Face<'a> {
    size: f64,
    fill: &'a str,
    anchor: Anchor,
    bold: bool,
    mono: bool,
    /// Turned by 90° to read upwards.
    upward: bool,
}

impl<'a> Face<'a> {
    pub(super) fn new(size: f64, fill: &'a str) -> Self {
        Face {
            size,
            fill,
            anchor: Anchor::Start,
            bold: false,
            mono: false,
            upward: false,
        }
    }

    pub(super) fn anchored(self, anchor: Anchor) -> Self {
        Face { anchor, ..self }
    }

    pub(super) fn middle(self) -> Self {
        self.anchored(Anchor::Middle)
    }

    pub(super) fn end(self) -> Self {
        self.anchored(Anchor::End)
    }

    pub(super) fn bold(self) -> Self {
        Face { bold: true, ..self }
    }

    pub(super) fn mono(self) -> Self {
        Face { mono: true, ..self }
    }

    pub(super) fn upward(mut self) -> Self {
        self.upward = true;
        self
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
        self.dashed_line(from, to, stroke, 1.0, "");
    }

    pub(super) fn dashed_line(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        stroke: &str,
        width: f64,
        dash: &str,
    ) {
        let [x, y, to_x, to_y] = [from.0, from.1, to.0, to.1].map(short);
        let d = format!("M{x} {y}L{to_x} {to_y}");
        self.outline(&d, stroke, width, "", dash);
    }

    /// A path that is filled.
    pub(super) fn fill(&mut self, d: &str, fill: &str) {
        self.shapes += &format!("<path d=\"{d}\" fill=\"{fill}\"/>\n");
    }

    /// A path that is drawn as a line with round corners and ends.
    pub(super) fn stroke(&mut self, d: &str, stroke: &str, width: f64, dash: &str) {
        let round = r#" stroke-linejoin="round" stroke-linecap="round""#;
        self.outline(d, stroke, width, round, dash);
    }

    fn outline(&mut self, d: &str, stroke: &str, width: f64, ends: &str, dash: &str) {
        let width = short(width);
        let dash = match dash {
            "" => String::new(),
            dash => format!(r#" stroke-dasharray="{dash}""#),
        };
        self.shapes += &format!(
            "<path d=\"{d}\" stroke=\"{stroke}\" stroke-width=\"{width}\" fill=\"none\"{ends}{dash}/>\n"
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, face: Face, text: &str) {
        if text.is_empty() {
            return;
        }
        let [x, y, size] = [x, y, face.size].map(short);
        let mut attributes = String::new();
        attributes += match face.anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        if face.bold {
            attributes += r#" font-weight="600""#;
        }
        if face.mono {
            attributes += &format!(r#" font-family="{MONO}""#);
        }
        if face.upward {
            attributes += &format!(r#" transform="rotate(-90 {x} {y})""#);
        }
        let (fill, text) = (face.fill, escape(text));
        self.shapes += &format!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{fill}\"{attributes}>{text}</text>\n"
        );
    }

    /// The figure as part of a page, which sets the font, the background, the title and the caption.
    pub(super) fn inline(self, label: &str) -> String {
        element("", label, (self.width, self.height), &self.shapes)
    }

    /// The figure as a file of its own, with background, title and caption.
    pub(super) fn standalone(self, title: &str, caption: &str, inks: &Inks) -> String {
        let mut words = Drawing::new(self.width + 2.0 * MARGIN);
        let mut top = MARGIN;
        if !title.is_empty() {
            words.text(MARGIN, top + 14.0, Face::new(16.0, inks.ink).bold(), title);
            top += 30.0;
        }
        let mut bottom = top + self.height + 8.0;
        for line in wrap(caption, (self.width / text_width("x", 12.0)) as usize) {
            bottom += 17.0;
            words.text(MARGIN, bottom - 4.0, Face::new(12.0, inks.muted), &line);
        }
        let (width, height) = (words.width, bottom + MARGIN - 8.0);
        let mut background = Drawing::new(width);
        background.rect(0.0, 0.0, width, height, inks.paper);
        let shapes = format!(
            "{}{}<g transform=\"translate({} {})\">\n{}</g>\n",
            background.shapes,
            words.shapes,
            short(MARGIN),
            short(top),
            self.shapes
        );
        let file = format!(
            r#" xmlns="http://www.w3.org/2000/svg" width="{}" height="{}""#,
            short(width),
            short(height)
        );
        element(&file, title, (width, height), &shapes)
    }
}

fn element(attributes: &str, label: &str, (width, height): (f64, f64), shapes: &str) -> String {
    let (width, height, label) = (short(width), short(height), escape(label));
    format!(
        "<svg{attributes} viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\" font-family=\"{SANS}\">\n{shapes}</svg>\n"
    )
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
