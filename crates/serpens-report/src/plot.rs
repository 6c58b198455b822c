//! The rectangle of a plot between its axes.

use crate::axis::Axis;
use crate::svg::{Drawing, END, Face, MIDDLE};
use crate::theme::Inks;

pub(super) struct Plot {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub x: Axis,
    pub y: Axis,
}

impl Plot {
    /// A plot `room` pixels wide with what stands beside it: labels up to `left`, and half of the last tick's. `x`
    /// gives the axis with at most so many ticks.
    pub(super) fn new(
        room: f64,
        (left, top): (f64, f64),
        height: f64,
        x: impl Fn(usize) -> Axis,
        y: Axis,
    ) -> Self {
        let label = x(10).label_width();
        let width = (room - left - (label * 0.6).max(22.0)).max(1.0);
        // Wide labels leave room for fewer ticks.
        let most = (width / (label + 18.0)) as usize;
        Plot {
            left,
            top,
            width,
            height,
            x: x(most.clamp(2, 10)),
            y,
        }
    }

    /// What labels of such a width take beside it.
    pub(super) fn left_of(label_width: f64) -> f64 {
        label_width.max(14.0) + 10.0
    }

    /// Where a point is drawn. Values far outside are held near the frame, which hides what is beyond it.
    pub(super) fn locate(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let (x, y) = (self.x.place(x)?, self.y.place(y)?);
        Some((self.x_at(x.clamp(-9.0, 9.0)), self.y_at(y.clamp(-9.0, 9.0))))
    }

    pub(super) fn x_at(&self, place: f64) -> f64 {
        self.left + place * self.width
    }

    pub(super) fn y_at(&self, place: f64) -> f64 {
        self.top + (1.0 - place) * self.height
    }

    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// The axes, with what x and y are.
    pub(super) fn frame(&self, drawing: &mut Drawing, inks: &Inks, [x_label, y_label]: [&str; 2]) {
        let label = Face::new(inks.muted);
        let (left, right, bottom) = (self.left, self.right(), self.bottom());
        let (middle, end) = (label.with(MIDDLE), label.with(END));
        drawing.text(0.0, self.top - 12.0, &label, y_label);
        for (place, text) in &self.y.ticks {
            let y = self.y_at(*place);
            drawing.line((left, y), (right, y), inks.grid);
            drawing.text(left - 7.0, y + 4.0, &end, text);
        }
        drawing.line((left, bottom), (right, bottom), inks.muted);
        for (place, text) in &self.x.ticks {
            let x = self.x_at(*place);
            drawing.line((x, bottom), (x, bottom + 4.0), inks.muted);
            drawing.text(x, bottom + 17.0, &middle, text);
        }
        let centre = left + self.width / 2.0;
        drawing.text(centre, bottom + 34.0, &middle, x_label);
    }
}
