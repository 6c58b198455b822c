//! The selection map as a figure: panels over a common axis of tokens.

use std::ops::Range;

use super::bands::{Grid, by_selectivity, columns, mean, pool};
use super::{LayerSelection, SelectionMap};
use crate::axis::{Axis, Scale};
use crate::svg::{BOLD, Drawing, END, Face, MIDDLE, MONO, short, text_width};
use crate::text::{display_width, number, printable, truncate};
use crate::theme::{Inks, MEMORY, Palette, STEP};

const LEFT: f64 = 58.0;
const RIGHT: f64 = 86.0;
const STRIP_HEIGHT: f64 = 46.0;
const DELTA_HEIGHT: f64 = 144.0;
const RETENTION_HEIGHT: f64 = 120.0;
/// Tokens of a short sequence are not stretched over the whole page.
const WIDEST_CELL: f64 = 44.0;
/// Colours of a heat map; neighbours differ by less than the eye sees.
const SHADES: usize = 64;
const TOKEN_SIZE: f64 = 10.0;
/// Letters of a token at most, where they stand upright on end.
const TOKEN_LETTERS: usize = 14;

/// What all layers share: the axis of tokens, and the range of Δ.
struct Frame<'a> {
    map: &'a SelectionMap,
    inks: &'a Inks,
    columns: Vec<Range<usize>>,
    cell: f64,
    /// Logarithmic scale of Δ.
    steps: Axis,
}

impl Frame<'_> {
    /// Small letters.
    fn note(&self) -> Face {
        Face::new(10.0, self.inks.muted)
    }

    fn width(&self) -> f64 {
        self.cell * self.columns.len() as f64
    }

    fn right(&self) -> f64 {
        LEFT + self.width()
    }

    /// The middle of a column.
    fn centre(&self, column: usize) -> f64 {
        LEFT + (column as f64 + 0.5) * self.cell
    }

    fn is_highlighted(&self, column: usize) -> bool {
        let mut tokens = self.columns[column].clone();
        tokens.any(|token| self.map.is_highlighted(token))
    }
}

impl SelectionMap {
    pub(crate) fn draw(&self, width: f64, inks: &Inks) -> Drawing {
        let mut drawing = Drawing::new(width);
        let tokens = self.tokens.len();
        if tokens == 0 || self.layers.is_empty() {
            let face = Face::new(12.0, inks.muted);
            drawing.text(0.0, 14.0, &face, "Nothing was recorded.");
            drawing.height = 20.0;
            return drawing;
        }
        let layers = self.layers.iter().map(|layer| {
            let order = by_selectivity(layer, tokens);
            Pooled {
                layer,
                delta: pool(&layer.delta, &order, tokens),
                retention: pool(&layer.retention, &order, tokens),
            }
        });
        let layers: Vec<Pooled> = layers.collect();
        let columns = columns(tokens);
        let frame = Frame {
            map: self,
            inks,
            cell: ((width - LEFT - RIGHT) / columns.len() as f64).min(WIDEST_CELL),
            columns,
            steps: step_axis(&layers),
        };
        let mut y = legend(&mut drawing, &frame);
        for layer in &layers {
            y = draw_layer(&mut drawing, &frame, layer, y) + 22.0;
        }
        drawing.height = y - 14.0;
        drawing
    }
}

/// A layer, and its heat maps with the channels in order of selectivity.
struct Pooled<'a> {
    layer: &'a LayerSelection,
    delta: Grid,
    retention: Grid,
}

/// The range of Δ over all layers, at most four decades down from the largest: below, all steps look alike.
fn step_axis(layers: &[Pooled]) -> Axis {
    let cells = || layers.iter().flat_map(|layer| layer.delta.iter().flatten());
    let steps = || cells().copied().flatten().filter(|step| *step > 0.0);
    let high = steps().fold(0.0, f64::max);
    let steps = steps().map(|step| step.max(high * 1e-4));
    Axis::over(Scale::Log10, steps, 8, false, 1.0)
}

/// What the colours of the bars and tokens mean; returns where the first layer starts.
fn legend(drawing: &mut Drawing, frame: &Frame) -> f64 {
    if !frame.map.highlight.contains(&true) {
        return 4.0;
    }
    let mut x = LEFT;
    for (fill, name) in [
        (frame.inks.accent, "tokens that carry data"),
        (frame.inks.quiet, "other tokens"),
    ] {
        drawing.rect(x, 4.0, 10.0, 10.0, fill);
        drawing.text(x + 15.0, 13.0, &Face::new(11.0, frame.inks.muted), name);
        x += 15.0 + text_width(name, 11.0) + 18.0;
    }
    28.0
}

/// One layer from `top` down; returns where it ends.
fn draw_layer(drawing: &mut Drawing, frame: &Frame, pooled: &Pooled, top: f64) -> f64 {
    let layer = pooled.layer;
    layer_name(drawing, frame, &layer.name, top + 12.0);
    let mut y = top + 24.0;
    strip(drawing, frame, layer, y);
    y += STRIP_HEIGHT + 6.0;

    let count = number(layer.channels as f64, 0);
    let rows = match layer.channels {
        1 => ["1 channel", ""],
        _ => [&format!("{count} channels"), "more selective →"],
    };
    let panel = Panel {
        top: y,
        height: DELTA_HEIGHT,
        palette: &STEP,
        axis: &frame.steps,
        rows,
        name: "Δ (step size, softplus)",
    };
    heat_map(drawing, frame, &pooled.delta, &panel);
    y += DELTA_HEIGHT;
    if !layer.retention.is_empty() {
        y += 8.0;
        let axis = Axis::over(Scale::Linear, [0.0, 1.0].into_iter(), 5, false, 1.0);
        let panel = Panel {
            top: y,
            height: RETENTION_HEIGHT,
            palette: &MEMORY,
            axis: &axis,
            rows: ["channels", "in the same order"],
            name: "retention at the end",
        };
        heat_map(drawing, frame, &pooled.retention, &panel);
        y += RETENTION_HEIGHT;
    }
    token_axis(drawing, frame, y)
}

/// The layer's name, and after it what the bars below are.
fn layer_name(drawing: &mut Drawing, frame: &Frame, name: &str, baseline: f64) {
    let name = truncate(name, 48);
    let face = Face::new(13.0, frame.inks.ink).with(BOLD);
    drawing.text(LEFT, baseline, &face, &name);
    let x = match name.is_empty() {
        true => LEFT,
        false => LEFT + text_width(&name, 13.0) * 1.1 + 12.0,
    };
    let face = Face::new(11.0, frame.inks.muted);
    let what = "mean Δ of each token, over the channels";
    drawing.text(x, baseline, &face, what);
}

/// Bars of the mean Δ per token, from zero.
fn strip(drawing: &mut Drawing, frame: &Frame, layer: &LayerSelection, top: f64) {
    let steps = |column: &Range<usize>| {
        let tokens = column.clone();
        mean(tokens.filter_map(|token| layer.mean_delta(token)))
    };
    let means: Vec<Option<f64>> = frame.columns.iter().map(steps).collect();
    let values = means.iter().flatten().copied().chain([0.0]);
    let axis = Axis::over(Scale::Linear, values, 3, true, 1.0);
    let bottom = top + STRIP_HEIGHT;
    for (place, label) in &axis.ticks {
        let y = bottom - place * STRIP_HEIGHT;
        drawing.line((LEFT, y), (frame.right(), y), frame.inks.grid);
        drawing.text(LEFT - 6.0, y + 3.5, &frame.note().with(END), label);
    }
    let gap = (frame.cell * 0.16).min(2.0);
    let bar = |(column, step): (usize, &Option<f64>)| {
        let height = (axis.place((*step)?)? * STRIP_HEIGHT).max(0.5);
        let x = LEFT + column as f64 * frame.cell + gap / 2.0;
        let [x, y, width, height] = [x, bottom, frame.cell - gap, height].map(short);
        Some(format!("M{x} {y}h{width}v-{height}h-{width}z"))
    };
    for (highlighted, fill) in [(false, frame.inks.quiet), (true, frame.inks.accent)] {
        let bars = means.iter().enumerate();
        let bars = bars.filter(|(column, _)| frame.is_highlighted(*column) == highlighted);
        drawing.fill(&bars.filter_map(bar).collect::<String>(), fill);
    }
}

/// A heat map's place, colours and names.
struct Panel<'a> {
    top: f64,
    height: f64,
    palette: &'a Palette,
    axis: &'a Axis,
    /// What the rows are, in two lines.
    rows: [&'a str; 2],
    name: &'a str,
}

impl Panel<'_> {
    fn colour(&self, shade: usize) -> String {
        self.palette.hex(shade as f64 / (SHADES - 1) as f64)
    }
}

fn heat_map(drawing: &mut Drawing, frame: &Frame, grid: &Grid, panel: &Panel) {
    let middle = panel.top + panel.height / 2.0;
    let (width, height) = (frame.width(), panel.height);
    drawing.rect(LEFT, panel.top, width, height, frame.inks.empty);
    for (line, x) in panel.rows.into_iter().zip([LEFT - 24.0, LEFT - 10.0]) {
        drawing.upward(x, middle, &frame.note().with(MIDDLE), line);
    }
    if !grid.is_empty() {
        let shade = |value: f64| {
            let place = panel.axis.place(value.max(f64::MIN_POSITIVE))?;
            Some((place.clamp(0.0, 1.0) * (SHADES - 1) as f64).round() as usize)
        };
        let row_height = height / grid.len() as f64;
        // Crisp edges: blended ones would show the background between neighbours as a fine net.
        drawing.shapes += &format!(
            "<g transform=\"translate({} {}) scale({:.4} {row_height:.4})\" fill=\"none\" shape-rendering=\"crispEdges\">\n",
            short(LEFT),
            short(panel.top + row_height / 2.0),
            frame.cell,
        );
        for (index, path) in runs(grid, shade).iter().enumerate() {
            if !path.is_empty() {
                let colour = panel.colour(index);
                drawing.shapes += &format!("<path stroke=\"{colour}\" d=\"{path}\"/>\n");
            }
        }
        drawing.shapes += "</g>\n";
    }
    colour_bar(drawing, frame, panel);
}

/// For each shade, the cells of that shade as horizontal lines one row thick; neighbours in a row are one line.
fn runs(grid: &Grid, shade: impl Fn(f64) -> Option<usize>) -> Vec<String> {
    let mut paths = vec![String::new(); SHADES];
    for (band, cells) in grid.iter().enumerate() {
        let shades: Vec<_> = cells.iter().map(|cell| cell.and_then(&shade)).collect();
        let mut start = 0;
        for run in shades.chunk_by(|a, b| a == b) {
            if let Some(shade) = run[0] {
                paths[shade] += &format!("M{start} {band}h{}", run.len());
            }
            start += run.len();
        }
    }
    paths
}

fn colour_bar(drawing: &mut Drawing, frame: &Frame, panel: &Panel) {
    let (x, width) = (frame.right() + 12.0, 10.0);
    let (height, bottom) = (panel.height / SHADES as f64, panel.top + panel.height);
    drawing.shapes += "<g shape-rendering=\"crispEdges\">\n";
    for shade in 0..SHADES {
        let y = bottom - (shade + 1) as f64 * height;
        drawing.rect(x, y, width, height + 0.2, &panel.colour(shade));
    }
    drawing.shapes += "</g>\n";
    let end = x + width;
    for (place, label) in &panel.axis.ticks {
        let y = panel.top + (1.0 - place) * panel.height;
        drawing.line((end, y), (end + 3.0, y), frame.inks.muted);
        drawing.text(end + 6.0, y + 3.5, &frame.note(), label);
    }
    let middle = panel.top + panel.height / 2.0;
    let x = end + panel.axis.label_width(10.0) + 20.0;
    drawing.upward(x, middle, &frame.note().with(MIDDLE), panel.name);
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
        if x + text_width(&position, 10.0) / 2.0 < frame.right() + 12.0 {
            drawing.line((x, y), (x, y + 3.0), frame.inks.muted);
            drawing.text(x, y + 13.0, &frame.note().with(MIDDLE), &position);
        }
    }
    drawing.text(LEFT - 6.0, y + 13.0, &frame.note().with(END), "position");
    y + 16.0
}

/// As many tokens as fit, upright where they all fit their cells, else on end; returns where they end.
fn token_labels(drawing: &mut Drawing, frame: &Frame, y: f64) -> f64 {
    let label = |token: &String| truncate(&printable(token), TOKEN_LETTERS);
    let labels: Vec<String> = frame.map.tokens.iter().map(label).collect();
    let letters = labels.iter().map(|label| display_width(label)).max();
    let widest = letters.unwrap_or(0) as f64 * TOKEN_SIZE * 0.602;
    // A single letter is upright however narrow its cell: then some are left out.
    let flat = widest <= (frame.cell - 1.0).max(TOKEN_SIZE * 0.61);
    let room = match flat {
        true if widest <= frame.cell => widest,
        // Letters that are not neighbours must not read as a word.
        true => widest + 8.0,
        false => TOKEN_SIZE,
    };
    for column in spread(frame, room) {
        let (fill, weight) = match frame.is_highlighted(column) {
            true => (frame.inks.accent, BOLD),
            false => (frame.inks.ink, ""),
        };
        let anchor = if flat { MIDDLE } else { END };
        let face = Face::new(TOKEN_SIZE, fill);
        let face = face.with(anchor).with(weight).with(MONO);
        let (x, label) = (frame.centre(column), &labels[column]);
        match flat {
            true => drawing.text(x, y + 9.0, &face, label),
            false => drawing.upward(x + 3.5, y, &face, label),
        }
    }
    y + if flat { 14.0 } else { widest + 4.0 }
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
