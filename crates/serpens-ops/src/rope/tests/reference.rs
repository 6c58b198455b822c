//! The definition, in f64 the truth and in f32 the yardstick. Angles are f64 in both: in f32 those of far positions
//! would be none.

use crate::rope::RopeOptions;
use crate::shared::tests::real::{Real, zero};

/// The cosine and the sine of the angle of a pair.
pub fn cosine_and_sine<R: Real>(head: usize, base: f32, position: usize, pair: usize) -> [R; 2] {
    let frequency = f64::from(base).powf(-2.0 * pair as f64 / head as f64);
    let (sine, cosine) = (position as f64 * frequency).sin_cos();
    [cosine, sine].map(R::from_f64)
}

/// y: (rows, columns), of sequences of `length` rows; turned by negative angles where `back`.
pub fn turn<R: Real>(
    x: &[R],
    columns: usize,
    length: usize,
    options: &RopeOptions,
    back: bool,
) -> Vec<R> {
    let half = options.head / 2;
    let mut y = vec![zero(); x.len()];
    for at in 0..x.len() {
        let (row, column) = (at / columns, at % columns % options.head);
        if column < half {
            let position = options.from + row % length;
            let [cosine, sine]: [R; 2] =
                cosine_and_sine(options.head, options.base, position, column);
            let sine = if back { -sine } else { sine };
            y[at] = x[at] * cosine - x[at + half] * sine;
            y[at + half] = x[at] * sine + x[at + half] * cosine;
        }
    }
    y
}
