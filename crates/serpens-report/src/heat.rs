//! What figures of shades share: cells side by side, and the key of their colours.

use crate::svg::{Drawing, Face, LETTER, short, text_width};
use crate::theme::Palette;

/// Shades of a heat map; neighbours differ by less than the eye sees.
pub(super) const SHADES: usize = 64;

/// Where the cells of a heat map stand.
pub(super) struct Cells {
    /// The first one's corner.
    pub origin: (f64, f64),
    /// Width and height of one.
    pub size: (f64, f64),
    /// How much of their width and height neighbours overlap by. Below zero a gap, the same of both sides.
    pub overlap: (f64, f64),
}

impl Cells {
    /// Draws rows of cells with a place in 0..=1 each, or none; `stroke` gives a place's colour as attributes. Cells of
    /// one shade are horizontal lines one row thick, neighbours in a row one line.
    pub(super) fn draw<R: IntoIterator<Item = Option<f64>>>(
        &self,
        drawing: &mut Drawing,
        rows: impl IntoIterator<Item = R>,
        stroke: impl Fn(f64) -> String,
    ) {
        let ((x, y), (width, height), overlap) = (self.origin, self.size, self.overlap);
        let (size, gap) = (short(1.0 + overlap.1), -overlap.0);
        // Blended edges would show the background between neighbours as a fine net.
        let edges = match gap > 0.0 {
            true => format!(r#" stroke-dasharray="{size} {}""#, short(gap)),
            false => r#" shape-rendering="crispEdges""#.to_owned(),
        };
        let [x, y] = [x, y + height / 2.0].map(short);
        drawing.shapes += &format!(
            "<g transform=\"translate({x} {y}) scale({width:.4} {height:.4})\" stroke-width=\"{size}\" fill=\"none\"{edges}>\n"
        );
        let last = (SHADES - 1) as f64;
        let mut paths = vec![String::new(); SHADES];
        for (row, places) in rows.into_iter().enumerate() {
            let shade = |place: f64| (place * last).round() as usize;
            let shades: Vec<_> = places.into_iter().map(|place| place.map(shade)).collect();
            let mut start = 0;
            for run in shades.chunk_by(|a, b| a == b) {
                if let Some(path) = run[0].and_then(|shade| paths.get_mut(shade)) {
                    let length = short(run.len() as f64 + overlap.0);
                    *path += &format!("M{start} {row}h{length}");
                }
                start += run.len();
            }
        }
        for (shade, path) in paths
            .iter()
            .enumerate()
            .filter(|(_, path)| !path.is_empty())
        {
            let stroke = stroke(shade as f64 / last);
            drawing.shapes += &format!("<path {stroke} d=\"{path}\"/>\n");
        }
        drawing.shapes += "</g>\n";
    }
}

/// The width of [`key`].
pub(super) fn key_width(texts: [&str; 3]) -> f64 {
    texts.map(text_width).iter().sum::<f64>() + SHADES as f64 + 27.0
}

/// The name of what is shown, and the colours between the values of their ends.
pub(super) fn key(
    drawing: &mut Drawing,
    (mut x, baseline): (f64, f64),
    face: &Face,
    palette: &Palette,
    [name, low, high]: [&str; 3],
) {
    for text in [name, low] {
        drawing.text(x, baseline, face, text);
        x += text_width(text) + 12.0;
    }
    drawing.shapes += "<g shape-rendering=\"crispEdges\">\n";
    for shade in 0..SHADES {
        let colour = palette.hex(shade as f64 / (SHADES - 1) as f64);
        let x = x - 4.0 + shade as f64;
        drawing.rect(x, baseline - LETTER + 2.0, 1.5, LETTER - 2.0, &colour);
    }
    drawing.shapes += "</g>\n";
    drawing.text(x + SHADES as f64 + 3.0, baseline, face, high);
}
