//! A small writer of SVG: the few shapes that the figures need, numbers kept short and always finite.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::text::{display_width, escape, wrap};
use crate::theme::{Inks, Theme};

pub(super) const SANS: &str =
    "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif";
pub(super) const MONO: &str =
    "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace";

/// Space around a figure that is a file of its own.
const MARGIN: f64 = 16.0;

/// How a figure is drawn when it is a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SvgOptions {
    /// Width in pixels, taken into 360..=4000; the height follows from the content.
    pub width: f64,
    /// Inks and background.
    pub theme: Theme,
}

impl Default for SvgOptions {
    /// 960 pixels, light.
    fn default() -> Self {
        SvgOptions {
            width: 960.0,
            theme: Theme::Light,
        }
    }
}

impl SvgOptions {
    /// The width to draw at: in range, whatever the caller asked for.
    pub(super) fn usable_width(&self) -> f64 {
        if self.width.is_finite() {
            self.width.clamp(360.0, 4000.0)
        } else {
            SvgOptions::default().width
        }
    }

    /// What is left of the width between the margins of a file.
    pub(super) fn content_width(&self) -> f64 {
        self.usable_width() - 2.0 * MARGIN
    }
}

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
    pub size: f64,
    pub fill: &'a str,
    pub anchor: Anchor,
    pub bold: bool,
    pub mono: bool,
    /// Turned by 90° to read upwards.
    pub upward: bool,
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

    pub(super) fn middle(self) -> Self {
        Face {
            anchor: Anchor::Middle,
            ..self
        }
    }

    pub(super) fn end(self) -> Self {
        Face {
            anchor: Anchor::End,
            ..self
        }
    }

    pub(super) fn bold(self) -> Self {
        Face { bold: true, ..self }
    }

    pub(super) fn mono(self) -> Self {
        Face { mono: true, ..self }
    }

    pub(super) fn upward(self) -> Self {
        Face {
            upward: true,
            ..self
        }
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
        let (x, y, width, height) = (short(x), short(y), short(width), short(height));
        let _ = writeln!(
            self.shapes,
            r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"/>"#
        );
    }

    pub(super) fn line(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        stroke: &str,
        width: f64,
        dash: &str,
    ) {
        let dash = if dash.is_empty() {
            String::new()
        } else {
            format!(r#" stroke-dasharray="{dash}""#)
        };
        let _ = writeln!(
            self.shapes,
            r#"<path d="M{} {}L{} {}" stroke="{stroke}" stroke-width="{}" fill="none"{dash}/>"#,
            short(from.0),
            short(from.1),
            short(to.0),
            short(to.1),
            short(width)
        );
    }

    /// A path that is filled.
    pub(super) fn fill(&mut self, d: &str, fill: &str) {
        let _ = writeln!(self.shapes, r#"<path d="{d}" fill="{fill}"/>"#);
    }

    /// A path that is drawn as a line.
    pub(super) fn stroke(&mut self, d: &str, stroke: &str, width: f64, dash: &str) {
        let dash = if dash.is_empty() {
            String::new()
        } else {
            format!(r#" stroke-dasharray="{dash}""#)
        };
        let _ = writeln!(
            self.shapes,
            r#"<path d="{d}" stroke="{stroke}" stroke-width="{}" fill="none" stroke-linejoin="round" stroke-linecap="round"{dash}/>"#,
            short(width)
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, face: Face, text: &str) {
        if text.is_empty() {
            return;
        }
        let (x, y) = (short(x), short(y));
        let mut attributes = String::new();
        match face.anchor {
            Anchor::Start => {}
            Anchor::Middle => attributes.push_str(r#" text-anchor="middle""#),
            Anchor::End => attributes.push_str(r#" text-anchor="end""#),
        }
        if face.bold {
            attributes.push_str(r#" font-weight="600""#);
        }
        if face.mono {
            let _ = write!(attributes, r#" font-family="{MONO}""#);
        }
        if face.upward {
            let _ = write!(attributes, r#" transform="rotate(-90 {x} {y})""#);
        }
        let _ = writeln!(
            self.shapes,
            r#"<text x="{x}" y="{y}" font-size="{}" fill="{}"{attributes}>{}</text>"#,
            short(face.size),
            face.fill,
            escape(text)
        );
    }

    /// The figure as part of a page, which sets the font, the background, the title and the caption.
    pub(super) fn inline(self, label: &str) -> String {
        element("", label, (self.width, self.height), &self.shapes)
    }

    /// The figure as a file of its own, with background, title and caption.
    pub(super) fn standalone(self, title: &str, caption: &str, inks: &Inks) -> String {
        let mut frame = Drawing::new(self.width + 2.0 * MARGIN); // the background lies under everything
        let mut top = MARGIN;
        let mut words = Drawing::new(frame.width);
        if !title.is_empty() {
            words.text(MARGIN, top + 14.0, Face::new(16.0, inks.ink).bold(), title);
            top += 30.0;
        }
        let body = format!(
            "<g transform=\"translate({} {})\">\n{}</g>\n",
            short(MARGIN),
            short(top),
            self.shapes
        );
        let mut bottom = top + self.height + 8.0;
        for line in wrap(caption, (self.width / text_width("x", 12.0)) as usize) {
            bottom += 17.0;
            words.text(MARGIN, bottom - 4.0, Face::new(12.0, inks.muted), &line);
        }
        frame.height = bottom + MARGIN - 8.0;
        frame.rect(0.0, 0.0, frame.width, frame.height, inks.paper);
        let shapes = format!("{}{}{}", frame.shapes, words.shapes, body);
        let (width, height) = (short(frame.width), short(frame.height));
        let file =
            format!(r#" xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}""#);
        element(&file, title, (frame.width, frame.height), &shapes)
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
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_string()
    } else {
        text.to_string()
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
    fn a_width_out_of_range_is_taken_into_it() {
        let width = |width| {
            SvgOptions {
                width,
                ..SvgOptions::default()
            }
            .usable_width()
        };
        assert_eq!(
            (width(10.0), width(1e9), width(f64::NAN)),
            (360.0, 4000.0, 960.0)
        );
    }
}
