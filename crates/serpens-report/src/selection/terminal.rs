//! The token map in a terminal.

use super::{LayerMap, TokenMap};
use crate::text::{display_width, fill_lines, printable, rounded, truncate};
use crate::theme::STEP;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const LEAST_WIDTH: usize = 24;
/// From the lowest to the highest block, values grow at least by this factor: what hardly varies must not look as if it
/// did.
const LEAST_RANGE: f64 = 10.0;
const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
/// Orange that is legible on black and on white.
const HIGHLIGHT: &str = "\x1b[1;38;2;217;108;20m";

/// `text` in a colour or weight, if the terminal shows them.
fn paint(colour: bool, code: &str, text: &str) -> String {
    match colour {
        true => format!("{code}{text}{RESET}"),
        false => text.to_string(),
    }
}

impl TokenMap {
    /// The map for a terminal of `width` columns (at least 24 are used): the tokens, and under them the mean Δ of each
    /// layer, or what each token gets of attention in all, as block characters, on a logarithmic scale from the layer's
    /// smallest to its largest, or over a factor of ten. `colour` adds ANSI colours of 24 bits.
    pub fn to_text(&self, width: usize, colour: bool) -> String {
        let width = width.max(LEAST_WIDTH);
        let levels = |layer| Levels::of(layer, self.tokens.len());
        let layers: Vec<Levels> = self.layers.iter().map(levels).collect();
        let longest = layers.iter().map(|layer| display_width(&layer.name)).max();
        let gutter = longest.unwrap_or(0).min(width / 3);
        let label = |name: &str| {
            let name = truncate(name, gutter);
            let pad = " ".repeat(gutter - display_width(&name) + 1);
            name + &pad
        };
        let room = width - gutter - 1;
        let cell = |token: &String| truncate(&printable(token), room);
        let cells: Vec<String> = self.tokens.iter().map(cell).collect();
        let gap = usize::from(cells.iter().any(|cell| display_width(cell) > 1));

        let mut out = String::new();
        if !self.title.is_empty() {
            let title = truncate(&printable_line(&self.title), width);
            out += &format!("{}\n", paint(colour, BOLD, &title));
        }
        for layer in &layers {
            let legend = truncate(&layer.legend(), room);
            out += &format!("{}{legend}\n", label(&layer.name));
        }
        for line in fill_lines(&cells, gap, room) {
            let row = |cell: &dyn Fn(usize) -> String| {
                let row: Vec<String> = line.clone().map(cell).collect();
                row.join(&" ".repeat(gap)) + "\n"
            };
            out += &format!("\n{}", " ".repeat(gutter + 1));
            out += &row(&|token| {
                let highlighted = self.is_highlighted(token);
                paint(colour && highlighted, HIGHLIGHT, &cells[token])
            });
            for layer in &layers {
                out += &paint(colour, DIM, &label(&layer.name));
                out += &row(&|token| {
                    let (block, code) = layer.block(token);
                    let bar = block.to_string().repeat(display_width(&cells[token]));
                    paint(colour, &code, &bar)
                });
            }
        }
        out
    }
}

/// Spaces of a title or name stay spaces; its controls do not reach the terminal.
fn printable_line(text: &str) -> String {
    text.split(' ').map(printable).collect::<Vec<_>>().join(" ")
}

/// The bar of each token of a layer, and the range they are in.
struct Levels {
    name: String,
    unit: &'static str,
    means: Vec<Option<f64>>,
    low: f64,
    high: f64,
}

impl Levels {
    fn of(layer: &LayerMap, tokens: usize) -> Self {
        let means = layer.bars(tokens).into_iter();
        let means: Vec<Option<f64>> = means.map(|mean| mean.filter(|mean| *mean > 0.0)).collect();
        let known = || means.iter().flatten().copied();
        Levels {
            name: printable_line(layer.name()),
            unit: layer.unit(),
            low: known().fold(f64::INFINITY, f64::min),
            high: known().fold(0.0, f64::max),
            means,
        }
    }

    fn legend(&self) -> String {
        if self.low > self.high {
            return "no values".to_string();
        }
        let end = |mean| format!("{} {}", rounded(mean), self.block_of(mean).0);
        let [low, high] = [self.low, self.high].map(end);
        format!("{} from {low} to {high}", self.unit)
    }

    /// The block of a token and its colour.
    fn block(&self, token: usize) -> (char, String) {
        self.means[token].map_or(('·', DIM.to_string()), |mean| self.block_of(mean))
    }

    fn block_of(&self, mean: f64) -> (char, String) {
        let range = (self.high / self.low).max(LEAST_RANGE).ln();
        let middle = (self.high.ln() + self.low.ln()) / 2.0;
        let t = 0.5 + (mean.ln() - middle) / range;
        // The darkest colours of the palette would vanish on a dark terminal.
        let [r, g, b] = STEP.rgb(0.35 + 0.55 * t);
        let block = BLOCKS[((t * 8.0) as usize).min(7)];
        (block, format!("\x1b[38;2;{r};{g};{b}m"))
    }
}
