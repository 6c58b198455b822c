//! The selection map as a figure: panels over a common axis of tokens.

use super::bands::{Grid, Groups, by_selectivity, mean, pool};
use super::{LayerSelection, SelectionMap};
use crate::axis::{Axis, Scale};
use crate::svg::{Drawing, Face, short, text_width};
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
    columns: Groups,
    cell: f64,
    /// Logarithmic scale of Δ.
    steps: Axis,
}

impl<'a> Frame<'a> {
    /// Small letters.
    fn note(&self) -> Face<'a> {
        Face::new(10.0, self.inks.muted)
    }

    fn width(&self) -> f64 {
        self.cell * self.columns.count() as f64
    }

    fn right(&self) -> f64 {
        LEFT + self.width()
    }

    /// The middle of a column.
    fn centre(&self, column: usize) -> f64 {
        LEFT + (column as f64 + 0.5) * self.cell
    }

    fn is_highlighted(&self, column: usize) -> bool {
        let mut tokens = self.columns.range(column);
        tokens.any(|token| self.map.is_highlighted(token))
    }
}

pub(super) fn draw(map: &SelectionMap, width: f64, inks: &Inks) -> Drawing {
    let mut drawing = Drawing::new(width);
    let tokens = map.tokens.len();
    if tokens == 0 || map.layers.is_empty() {
        let face = Face::new(12.0, inks.muted);
        drawing.text(0.0, 14.0, face, "Nothing was recorded.");
        drawing.height = 20.0;
        return drawing;
    }
    let pooled = |layer| Pooled::of(layer, tokens);
    let layers: Vec<Pooled> = map.layers.iter().map(pooled).collect();
    let columns = Groups::of_tokens(tokens);
    let frame = Frame {
        map,
        inks,
        cell: ((width - LEFT - RIGHT) / columns.count() as f64).min(WIDEST_CELL),
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

/// A layer, and its heat maps with the channels in order of selectivity.
struct Pooled<'a> {
    layer: &'a LayerSelection,
    delta: Grid,
    retention: Grid,
}

impl<'a> Pooled<'a> {
    fn of(layer: &'a LayerSelection, tokens: usize) -> Self {
        let order = by_selectivity(layer, tokens);
        Pooled {
            layer,
            delta: pool(&layer.delta, &order, tokens),
            retention: pool(&layer.retention, &order, tokens),
        }
    }
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
        drawing.text(x + 15.0, 13.0, Face::new(11.0, frame.inks.muted), name);
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
    let face = Face::new(13.0, frame.inks.ink).bold();
    drawing.text(LEFT, baseline, face, &name);
    let x = match name.is_empty() {
        true => LEFT,
        false => LEFT + text_width(&name, 13.0) * 1.1 + 12.0,
    };
    let face = Face::new(11.0, frame.inks.muted);
    let what = "mean Δ of each token, over the channels";
    drawing.text(x, baseline, face, what);
}

/// Bars of the mean Δ per token, from zero.
fn strip(drawing: &mut Drawing, frame: &Frame, layer: &LayerSelection, top: f64) {
    let steps = |column| {
        let tokens = frame.columns.range(column);
        tokens.filter_map(|token| layer.mean_delta(token))
    };
    let columns = 0..frame.columns.count();
    let means: Vec<Option<f64>> = columns.map(|column| mean(steps(column))).collect();
    let values = means.iter().flatten().copied().chain([0.0]);
    let axis = Axis::over(Scale::Linear, values, 3, true, 1.0);
    let bottom = top + STRIP_HEIGHT;
    for (place, label) in &axis.ticks {
        let y = bottom - place * STRIP_HEIGHT;
        drawing.line((LEFT, y), (frame.right(), y), frame.inks.grid);
        drawing.text(LEFT - 6.0, y + 3.5, frame.note().end(), label);
    }
    let (mut marked, mut quiet) = (String::new(), String::new());
    let gap = (frame.cell * 0.16).min(2.0);
    for (column, step) in means.iter().enumerate() {
        let Some(place) = step.and_then(|step| axis.place(step)) else {
            continue;
        };
        let path = match frame.is_highlighted(column) {
            true => &mut marked,
            false => &mut quiet,
        };
        let x = LEFT + column as f64 * frame.cell + gap / 2.0;
        let height = (place * STRIP_HEIGHT).max(0.5);
        let [x, y, width, height] = [x, bottom, frame.cell - gap, height].map(short);
        *path += &format!("M{x} {y}h{width}v-{height}h-{width}z");
    }
    drawing.fill(&quiet, frame.inks.quiet);
    drawing.fill(&marked, frame.inks.accent);
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
        drawing.text(x, middle, frame.note().middle().upward(), line);
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
    let mut widest: f64 = 0.0;
    let end = x + width;
    for (place, label) in &panel.axis.ticks {
        let y = panel.top + (1.0 - place) * panel.height;
        drawing.line((end, y), (end + 3.0, y), frame.inks.muted);
        drawing.text(end + 6.0, y + 3.5, frame.note(), label);
        widest = widest.max(text_width(label, 10.0));
    }
    let (x, y) = (end + widest + 20.0, panel.top + panel.height / 2.0);
    drawing.text(x, y, frame.note().middle().upward(), panel.name);
}

/// The tokens under the panels and their positions counted from 0; returns where the axis ends.
fn token_axis(drawing: &mut Drawing, frame: &Frame, top: f64) -> f64 {
    let mut y = top + 6.0;
    if frame.columns.size == 1 {
        y = token_labels(drawing, frame, y);
    }
    let count = frame.columns.count();
    for column in (0..count).step_by(position_step(count, frame.cell)) {
        let x = frame.centre(column);
        let position = number((column * frame.columns.size) as f64, 0);
        if x + text_width(&position, 10.0) / 2.0 < frame.right() + 12.0 {
            drawing.line((x, y), (x, y + 3.0), frame.inks.muted);
            drawing.text(x, y + 13.0, frame.note().middle(), &position);
        }
    }
    drawing.text(LEFT - 6.0, y + 13.0, frame.note().end(), "position");
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
        let face = match frame.is_highlighted(column) {
            true => Face::new(TOKEN_SIZE, frame.inks.accent).bold(),
            false => Face::new(TOKEN_SIZE, frame.inks.ink),
        };
        let (x, label) = (frame.centre(column), &labels[column]);
        if flat {
            drawing.text(x, y + 9.0, face.mono().middle(), label);
        } else {
            drawing.text(x + 3.5, y, face.mono().end().upward(), label);
        }
    }
    y + if flat { 14.0 } else { widest + 4.0 }
}

/// Columns between two numbers of the axis: a power of two that leaves them room.
fn position_step(count: usize, cell: f64) -> usize {
    let mut step = 1;
    while step < count && step as f64 * cell < 44.0 {
        step *= 2;
    }
    step
}

/// The columns whose tokens are printed when each needs `room` pixels: all if they fit, else those that carry data
/// first, then every so many of the others.
fn spread(frame: &Frame, room: f64) -> Vec<usize> {
    let count = frame.columns.count();
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
