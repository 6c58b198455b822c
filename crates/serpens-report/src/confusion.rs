//! Confusion matrices: which classes a model takes for which.

use serde::{Deserialize, Serialize};

use crate::heat::Cells;
use crate::svg::{Drawing, END, Face, LETTER, MIDDLE, short, text_width};
use crate::text::{number, printable, truncate};
use crate::theme::Inks;

/// Classes drawn at most: of more no cell can be told from the next.
const MOST_CLASSES: usize = 200;
/// A page shows more than this in its full width.
const MOST_BESIDE_OTHERS: usize = 12;
/// A few classes are not stretched over the whole width.
const WIDEST_CELL: f64 = 56.0;
/// Letters of a name at most, where there is room.
const NAME_LETTERS: usize = 16;
/// How much ink a cell has where all of its row is in it: in either mode a count is read on it.
pub(super) const MOST_INK: f64 = 0.55;

/// How many examples of each class were answered with which class. Cells are shaded by their share of their row,
/// evenly in its square root, so that a few mistakes among many examples are seen; counts are printed where all fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    /// Heading.
    pub title: String,
    /// Names of the classes. Of more than 200 the first are drawn.
    pub classes: Vec<String>,
    /// How many examples of a class (row) were answered with a class (column); what is missing is 0.
    /// // (classes, classes)
    pub counts: Vec<Vec<u64>>,
    /// What the reader should see in it, e.g. the accuracy.
    pub caption: String,
}

/// The matrix with its totals, and where it stands.
struct Grid {
    names: Vec<String>,
    counts: Vec<Vec<u64>>,
    /// Of the rows and of the columns.
    totals: [Vec<f64>; 2],
    left: f64,
    top: f64,
    cell: f64,
    /// Where the totals of the rows end.
    end: f64,
}

fn widest(texts: &[String]) -> f64 {
    let widths = texts.iter().map(|text| text_width(text));
    widths.fold(0.0, f64::max)
}

impl ConfusionMatrix {
    /// Whether it needs more room than other figures.
    pub(super) fn is_broad(&self) -> bool {
        self.classes.len() > MOST_BESIDE_OTHERS
    }

    pub(super) fn draw(&self, width: f64, inks: &Inks) -> Drawing {
        if self.classes.is_empty() {
            return Drawing::without_data(width, inks);
        }
        let mut drawing = Drawing::new(width);
        let grid = self.lay_out(width);
        legend(&mut drawing, inks);
        grid.cells(&mut drawing, inks);
        grid.rows(&mut drawing, inks);
        drawing.height = grid.columns(&mut drawing, inks);
        drawing
    }

    fn lay_out(&self, width: f64) -> Grid {
        let letters = NAME_LETTERS.min((width / 24.0) as usize);
        let name = |name: &String| truncate(&printable(name).replace('␣', " "), letters);
        let names: Vec<String> = self.classes.iter().take(MOST_CLASSES).map(name).collect();
        let all = 0..names.len();
        let count = |row: usize, column: usize| {
            let count = self.counts.get(row).and_then(|row| row.get(column));
            count.copied().unwrap_or(0)
        };
        let row = |row| all.clone().map(|column| count(row, column)).collect();
        let counts: Vec<Vec<u64>> = all.clone().map(row).collect();
        let sum = |places: &mut dyn Iterator<Item = (usize, usize)>| -> f64 {
            places.map(|(row, column)| count(row, column) as f64).sum()
        };
        let row = |row| sum(&mut all.clone().map(|column| (row, column)));
        let column = |column| sum(&mut all.clone().map(|row| (row, column)));
        let rows: Vec<f64> = all.clone().map(row).collect();
        let columns = all.clone().map(column).collect();
        let left = 22.0 + widest(&names) + 8.0;
        let beside = 8.0 + widest(&printed(&rows)).max(text_width("total"));
        let cell = ((width - left - beside) / names.len() as f64).clamp(1.0, WIDEST_CELL);
        Grid {
            names,
            counts,
            totals: [rows, columns],
            left,
            top: 46.0,
            cell,
            end: left + cell * all.len() as f64 + beside,
        }
    }
}

fn printed(totals: &[f64]) -> Vec<String> {
    totals.iter().map(|total| number(*total, 0)).collect()
}

/// The colour of a cell of such a share's square root, and how much of it: none is less than the least share.
fn ink(root: f64, inks: &Inks) -> [String; 2] {
    match root > 0.0 {
        true => [inks.s0.to_owned(), short(MOST_INK * (0.2 + 0.8 * root))],
        false => [inks.empty.to_owned(), "0.5".to_owned()],
    }
}

fn legend(drawing: &mut Drawing, inks: &Inks) {
    let name = "share of the row, %";
    drawing.text(0.0, 14.0, &Face::new(inks.muted), name);
    let mut x = text_width(name) + 12.0;
    for percent in [0.0, 1.0, 10.0, 50.0, 100.0_f64] {
        let ([colour, opacity], label) = (ink((percent / 100.0).sqrt(), inks), number(percent, 0));
        let x_at = short(x);
        drawing.shapes += &format!(
            "<rect x=\"{x_at}\" y=\"4\" width=\"11\" height=\"11\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>\n"
        );
        drawing.text(x + 15.0, 14.0, &Face::new(inks.ink), &label);
        x += 15.0 + text_width(&label) + 9.0;
    }
}

impl Grid {
    fn side(&self) -> f64 {
        self.cell * self.names.len() as f64
    }

    fn centre(&self, index: usize) -> f64 {
        (index as f64 + 0.5) * self.cell
    }

    /// Every so many names have room.
    fn named(&self) -> impl Iterator<Item = (usize, &String)> {
        let apart = ((LETTER + 1.0) / self.cell).ceil() as usize;
        self.names.iter().enumerate().step_by(apart)
    }

    fn cells(&self, drawing: &mut Drawing, inks: &Inks) {
        let gap = -(1.0 / self.cell).min(0.1);
        let cells = Cells {
            origin: (self.left, self.top),
            size: (self.cell, self.cell),
            overlap: (gap, gap),
        };
        let rows = self.counts.iter().zip(&self.totals[0]).map(|(row, total)| {
            // However small the share, it is not shown as none.
            let place = move |count: &u64| match count {
                0 => Some(0.0),
                count => Some((*count as f64 / total).sqrt().max(0.01)),
            };
            row.iter().map(place)
        });
        cells.draw(drawing, rows, |place| {
            let [colour, opacity] = ink(place, inks);
            format!("stroke=\"{colour}\" stroke-opacity=\"{opacity}\"")
        });
        let text = |row: &Vec<u64>| row.iter().map(|count| number(*count as f64, 0)).collect();
        let texts: Vec<Vec<String>> = self.counts.iter().map(text).collect();
        let widest = texts.iter().map(|row| widest(row)).fold(LETTER, f64::max);
        let face = Face::new(inks.ink).with(MIDDLE);
        if widest + 6.0 > self.cell {
            return;
        }
        for (row, texts) in texts.iter().enumerate() {
            for (column, text) in texts.iter().enumerate().filter(|(_, text)| *text != "0") {
                let (x, y) = (self.left + self.centre(column), self.top + self.centre(row));
                drawing.text(x - 0.5, y + 3.5, &face, text);
            }
        }
    }

    /// The names of the rows, and what is in each.
    fn rows(&self, drawing: &mut Drawing, inks: &Inks) {
        let (ink, note) = (Face::new(inks.ink), Face::new(inks.muted));
        let middle = self.top + self.side() / 2.0;
        drawing.upward(11.0, middle, &note.with(MIDDLE), "true class");
        drawing.text(self.end, self.top - 7.0, &note.with(END), "total");
        let totals = printed(&self.totals[0]);
        for (row, name) in self.named() {
            let y = self.top + self.centre(row) + 3.5;
            drawing.text(self.left - 8.0, y, &ink.with(END), name);
            drawing.text(self.end, y, &note.with(END), &totals[row]);
        }
    }

    /// What is in each column, where all have room, and their names; returns where they end.
    fn columns(&self, drawing: &mut Drawing, inks: &Inks) -> f64 {
        let (ink, note) = (Face::new(inks.ink), Face::new(inks.muted));
        let mut y = self.top + self.side() + 4.0;
        let totals = printed(&self.totals[1]);
        if widest(&totals) + 4.0 <= self.cell {
            y += 12.0;
            drawing.text(self.left - 8.0, y, &note.with(END), "total");
            for (column, total) in totals.iter().enumerate() {
                let x = self.left + self.centre(column);
                drawing.text(x - 0.5, y, &note.with(MIDDLE), total);
            }
            y += 4.0;
        }
        let longest = widest(&self.names);
        let is_flat = longest + 4.0 <= self.cell;
        for (column, name) in self.named() {
            let x = self.left + self.centre(column);
            match is_flat {
                true => drawing.text(x, y + 12.0, &ink.with(MIDDLE), name),
                false => drawing.upward(x + 4.0, y + 2.0, &ink.with(END), name),
            }
        }
        y += if is_flat { 16.0 } else { longest + 6.0 };
        let middle = self.left + self.side() / 2.0;
        drawing.text(middle, y + 14.0, &note.with(MIDDLE), "answered");
        y + 20.0
    }
}
