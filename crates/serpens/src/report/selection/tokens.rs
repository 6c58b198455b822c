//! The axis of tokens under the panels of a selection map.

use super::super::svg::{Drawing, Face, text_width};
use super::super::text::{display_width, number, printable, truncate};
use super::figure::{Frame, LEFT};

const SIZE: f64 = 10.0;
/// Width of a letter in monospaced fonts, as a part of their size.
const LETTER: f64 = 0.602;
/// Letters of a token at most.
const MOST_LETTERS: usize = 16;

/// The tokens, as many as fit, and their positions counted from 0; returns where the axis ends. Positions are left out
/// where every token stands on end: the words say more, and there is no line to read the numbers on.
pub(super) fn axis(drawing: &mut Drawing, frame: &Frame, top: f64) -> f64 {
    let mut y = top + 6.0;
    if frame.columns.size == 1 {
        let labels: Vec<String> = frame
            .map
            .tokens
            .iter()
            .map(|token| truncate(&printable(token), MOST_LETTERS))
            .collect();
        let widest = labels
            .iter()
            .map(|label| display_width(label))
            .max()
            .unwrap_or(0) as f64
            * SIZE
            * LETTER;
        let flat = widest <= (frame.cell - 1.0).max(LETTER * SIZE);
        let shown = spread(frame, if flat { widest.max(6.0) } else { SIZE });
        for &column in &shown {
            let x = frame.centre(column);
            if frame.is_highlighted(column) {
                word(
                    drawing,
                    (x, y),
                    flat,
                    Face::new(SIZE, frame.inks.accent).bold(),
                    &labels[column],
                );
            } else {
                word(
                    drawing,
                    (x, y),
                    flat,
                    Face::new(SIZE, frame.inks.ink),
                    &labels[column],
                );
            }
        }
        y += if flat { 14.0 } else { widest + 4.0 };
        if !flat && shown.len() == labels.len() {
            return y;
        }
    }
    positions(drawing, frame, y)
}

fn word(drawing: &mut Drawing, (x, y): (f64, f64), flat: bool, face: Face, label: &str) {
    if flat {
        drawing.text(x, y + 9.0, face.mono().middle(), label);
    } else {
        drawing.text(x + 3.5, y, face.mono().end().upward(), label);
    }
}

fn positions(drawing: &mut Drawing, frame: &Frame, y: f64) -> f64 {
    let face = Face::new(SIZE, frame.inks.muted);
    let count = frame.columns.count();
    for column in (0..count).step_by(position_step(count, frame.cell)) {
        let x = frame.centre(column);
        drawing.line((x, y), (x, y + 3.0), frame.inks.muted, 1.0, "");
        let position = number((column * frame.columns.size) as f64, 0);
        if x + text_width(&position, SIZE) / 2.0 < frame.right() + 12.0 {
            drawing.text(x, y + 13.0, face.middle(), &position);
        }
    }
    drawing.text(LEFT - 6.0, y + 13.0, face.end(), "position");
    y + 16.0
}

/// Columns between two numbers of the axis: a power of two that leaves them room.
fn position_step(count: usize, cell: f64) -> usize {
    let mut step = 1;
    while step < count && step as f64 * cell < 44.0 {
        step *= 2;
    }
    step
}

/// The columns whose tokens are printed when each needs `room` pixels: all if they fit. If not, those that carry data,
/// or every so many of a sequence without such; a close row of some of the tokens would read as if it were all of them.
fn spread(frame: &Frame, room: f64) -> Vec<usize> {
    let count = frame.columns.count();
    let apart = (room / frame.cell - 1e-6).ceil().max(1.0) as usize;
    if apart == 1 {
        return (0..count).collect();
    }
    let marked: Vec<usize> = (0..count)
        .filter(|column| frame.is_highlighted(*column))
        .collect();
    if marked.is_empty() {
        return (0..count).step_by(2 * apart).collect();
    }
    let mut chosen: Vec<usize> = Vec::new();
    for column in marked {
        if chosen.last().is_none_or(|last| column - last >= apart) {
            chosen.push(column);
        }
    }
    chosen
}
