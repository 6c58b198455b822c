//! One layer of a token map: bars of the mean Δ, a heat map of Δ and one of what is kept; or, of attention, bars of
//! what each token gets and a heat map of who gives to whom.

use serde::{Deserialize, Serialize};

use super::bands::Grid;
use super::figure::{Frame, LEFT};
use super::{STEP_SIZE, WEIGHT};
use crate::axis::{Axis, Scale};
use crate::groups::mean;
use crate::heat::{self, Cells};
use crate::svg::{BOLD, Drawing, END, Face, MIDDLE, short, text_width};
use crate::text::{escape, number, rounded, truncate, wrap};
use crate::theme::{MEMORY, Palette, STEP};

const STRIP_HEIGHT: f64 = 46.0;
/// Three pixels for each of 48 bands.
const MAP_HEIGHT: f64 = 144.0;
/// The line of a heat map's name and colours.
const KEY_HEIGHT: f64 = 23.0;

/// What is drawn of a layer: in columns of one token each, or of a group of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LayerFigure {
    pub name: String,
    pub channels: usize,
    /// Of attention; 0 of a layer that selects by Δ.
    #[serde(default)]
    pub heads: usize,
    /// The mean Δ over the channels, or what a token gets of attention in all. // (columns)
    pub means: Vec<Option<f32>>,
    pub delta: Grid,
    pub retention: Grid,
    /// Queries from the first on, each with as many keys as it sees.
    #[serde(default)]
    pub weights: Grid,
}

impl LayerFigure {
    /// From `top` down; returns where it ends.
    pub(super) fn draw(&self, drawing: &mut Drawing, frame: &Frame, top: f64) -> f64 {
        let name = Face::new(frame.inks.ink).with(BOLD);
        drawing.text(LEFT, top + 12.0, &name, &truncate(&self.name, 40));
        let mut y = top + 12.0;
        let room = ((frame.room - LEFT) / text_width("x")) as usize;
        for line in wrap(&self.about_bars(frame), room) {
            y += 15.0;
            drawing.text(LEFT, y, &frame.note(), &line);
        }
        let first = y + 8.0;
        self.strip(drawing, frame, first);
        y = first + STRIP_HEIGHT + 4.0;
        for (panel, grid) in self.panels(frame) {
            y = panel.draw(drawing, frame, grid, y);
        }
        if frame.scrolls {
            self.tooltips(drawing, frame, first, y);
        }
        y
    }

    /// The heat maps.
    fn panels(&self, frame: &Frame) -> Vec<(Panel<'static>, &Grid)> {
        if self.heads > 0 {
            let of = if self.heads == 1 { "head" } else { "heads" };
            let panel = Panel {
                name: "weight (log)",
                palette: &STEP,
                range: Range::of(&self.weights),
                height: frame.width().min(2.0 * MAP_HEIGHT),
                rows: [format!("{} {of}", self.heads), "← later queries".to_owned()],
            };
            return vec![(panel, &self.weights)];
        }
        let channels = number(self.channels as f64, 0) + " channels";
        let panel = |name, palette, range| Panel {
            name,
            palette,
            range,
            height: MAP_HEIGHT,
            rows: [channels.clone(), "more selective →".to_owned()],
        };
        let steps = panel("step size Δ (log)", &STEP, Range::of(&self.delta));
        let kept = panel("kept at the end", &MEMORY, Range::new(0.0, 1.0, false));
        let kept = Some((kept, &self.retention)).filter(|(_, grid)| !grid.is_empty());
        [(steps, &self.delta)].into_iter().chain(kept).collect()
    }

    /// What the bars are, in short and in addition.
    fn unit(&self) -> (&'static str, &'static str) {
        match self.heads {
            0 => (STEP_SIZE, "over the channels"),
            _ => (WEIGHT, "from the tokens that see it, 1 on average"),
        }
    }

    /// The bar of a column, where it is known.
    fn bar(&self, column: usize) -> Option<f64> {
        let mean = f64::from((*self.means.get(column)?)?);
        Some(mean).filter(|mean| mean.is_finite())
    }

    fn about_bars(&self, frame: &Frame) -> String {
        let bars = (0..frame.columns.len()).filter_map(|column| Some((column, self.bar(column)?)));
        let (unit, more) = self.unit();
        match bars.max_by(|(_, a), (_, b)| a.total_cmp(b)) {
            Some((column, largest)) => {
                let (largest, place) = (rounded(largest), frame.name_of(column));
                format!("{unit} {more}, at most {largest}: {place}")
            }
            None => "no values".to_string(),
        }
    }

    /// Bars of the mean per token, from zero.
    fn strip(&self, drawing: &mut Drawing, frame: &Frame, top: f64) {
        let columns = 0..frame.columns.len();
        let values = columns.clone().filter_map(|column| self.bar(column));
        let axis = Axis::over(Scale::Linear, values.chain([0.0]), 3, true, 1.0);
        let bottom = top + STRIP_HEIGHT;
        for (place, label) in &axis.ticks {
            let y = bottom - place * STRIP_HEIGHT;
            drawing.line((LEFT, y), (frame.right(), y), frame.inks.grid);
            drawing.text(LEFT - 6.0, y + 4.0, &frame.note().with(END), label);
        }
        let gap = (frame.cell * 0.16).min(2.0);
        let bar = |column: usize| {
            let height = (axis.place(self.bar(column)?)? * STRIP_HEIGHT).max(0.5);
            let x = LEFT + column as f64 * frame.cell + gap / 2.0;
            let [x, y, width, height] = [x, bottom, frame.cell - gap, height].map(short);
            Some(format!("M{x} {y}h{width}v-{height}h-{width}z"))
        };
        for (highlighted, fill) in [(false, frame.inks.quiet), (true, frame.inks.accent)] {
            let bars = columns.clone();
            let bars = bars.filter(|column| frame.is_highlighted(*column) == highlighted);
            drawing.fill(&bars.filter_map(bar).collect::<String>(), fill);
        }
    }

    /// What a pointer that rests on a column is told.
    fn tooltips(&self, drawing: &mut Drawing, frame: &Frame, top: f64, bottom: f64) {
        let [width, height, top] = [frame.cell, bottom - top, top].map(short);
        drawing.shapes += "<g fill=\"transparent\">\n";
        for column in 0..frame.columns.len() {
            let x = short(LEFT + column as f64 * frame.cell);
            let kept = self.retention.iter().filter_map(|row| *row.get(column)?);
            let kept = mean(kept.map(f64::from));
            let kept = kept.map(|kept| format!(", {:.0} % kept", 100.0 * kept));
            let step = self.bar(column).map(rounded);
            let step = step.map(|mean| format!(": {} {mean}", self.unit().0));
            let facts = [Some(frame.name_of(column)), step, kept];
            let facts = escape(&facts.into_iter().flatten().collect::<String>());
            drawing.shapes += &format!(
                "<path d=\"M{x} {top}h{width}v{height}h-{width}z\"><title>{facts}</title></path>\n"
            );
        }
        drawing.shapes += "</g>\n";
    }
}

/// The values of the first and the last colour.
struct Range {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Range {
    fn new(low: f64, high: f64, is_log: bool) -> Self {
        Self { low, high, is_log }
    }

    /// At most four decades down from the largest value, as below all look alike, and one decade at least, as what
    /// hardly varies must not look as if it did.
    fn of(grid: &Grid) -> Self {
        let all = || grid.iter().flatten().flatten().map(|v| f64::from(*v));
        let values = || all().filter(|value| *value > 0.0 && value.is_finite());
        let high = values().fold(0.0, f64::max);
        let low = values().fold(high, f64::min).max(high * 1e-4);
        if high == 0.0 {
            return Self::new(0.1, 1.0, true);
        }
        let pad = (10.0 * low / high).max(1.0).sqrt();
        Self::new(low / pad, high * pad, true)
    }

    /// 0 at the low end, 1 at the high one, none for a value that is not finite.
    fn place(&self, value: f64) -> Option<f64> {
        let place = match self.is_log {
            true => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
            false => value,
        };
        value.is_finite().then_some(place.clamp(0.0, 1.0))
    }
}

/// How a heat map is drawn.
struct Panel<'a> {
    name: &'a str,
    palette: &'a Palette,
    range: Range,
    height: f64,
    /// What the rows are, and their order.
    rows: [String; 2],
}

impl Panel<'_> {
    /// From `top` down; returns where it ends.
    fn draw(&self, drawing: &mut Drawing, frame: &Frame, grid: &Grid, top: f64) -> f64 {
        let [low, high] = [self.range.low, self.range.high].map(rounded);
        let (at, texts) = ((LEFT, top + 16.0), [self.name, &low, &high]);
        heat::key(drawing, at, &frame.note(), self.palette, texts);
        let top = top + KEY_HEIGHT;
        drawing.rect(LEFT, top, frame.width(), self.height, frame.inks.empty);
        for (line, x) in self.rows.iter().zip([LEFT - 24.0, LEFT - 10.0]) {
            let middle = top + self.height / 2.0;
            drawing.upward(x, middle, &frame.note().with(MIDDLE), line);
        }
        let size = (frame.cell, self.height / grid.len().max(1) as f64);
        // On a page edges are crisp; in a file, whose reader may blend them all the same, neighbours overlap, by no
        // more than is not seen.
        let overlap = |size: f64| match frame.scrolls {
            true => 0.0,
            false => (0.3 / size).min(0.1),
        };
        let cells = Cells {
            origin: (LEFT, top),
            size,
            overlap: (overlap(size.0), overlap(size.1)),
        };
        let place = |value: &Option<f32>| self.range.place(f64::from((*value)?));
        let columns = frame.columns.len();
        let rows = grid.iter().map(|row| row.iter().take(columns).map(place));
        let stroke = |place| format!("stroke=\"{}\"", self.palette.hex(place));
        cells.draw(drawing, rows, stroke);
        top + self.height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hardly_varies_is_drawn_in_neighbouring_colours() {
        let steps = Range::of(&vec![vec![Some(0.02), None, Some(0.022)]]);
        assert!((steps.high / steps.low - 10.0).abs() < 1e-6);
        let places = [0.02, 0.022].map(|step| steps.place(step).unwrap());
        assert!(0.4 < places[0] && places[0] < 0.5 && 0.5 < places[1] && places[1] < 0.6);
    }

    #[test]
    fn colours_span_the_layers_own_steps() {
        let grid = vec![vec![Some(0.25), Some(f32::INFINITY)], vec![Some(16.0)]];
        let steps = Range::of(&grid);
        assert_eq!((steps.low, steps.high), (0.25, 16.0));
        let places = [0.25, 2.0, 16.0, f64::INFINITY].map(|step| steps.place(step));
        assert_eq!(places, [Some(0.0), Some(0.5), Some(1.0), None]);
        let wide = Range::of(&vec![vec![Some(1e-9), Some(0.0), Some(2.0)]]);
        assert!((wide.high / wide.low - 1e4).abs() < 1e-6);
    }
}
