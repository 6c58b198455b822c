//! The definition, in f64 the truth and in f32 the yardstick.

use crate::shared::tests::real::{Real, zero};

/// The positions of (batch, length) rows: from `from` on, or from 0 on wherever a sequence starts.
pub fn places(
    [batch, length]: [usize; 2],
    from: usize,
    starts: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let place = |row: usize| {
        let t = row % length;
        let begin = (0..=t).rev().find(|&s| s == 0 || starts(row - t + s));
        from + t - begin.unwrap()
    };
    (0..batch * length).map(place).collect()
}

/// y: (rows, width), x with the rows of the table that `places` names.
pub fn forward<R: Real>(x: &[R], table: &[R], places: &[usize], width: usize) -> Vec<R> {
    let value = |i: usize| x[i] + table[places[i / width] * width + i % width];
    (0..x.len()).map(value).collect()
}

/// dtable: (count, width), the sum of the rows of dy at each position.
pub fn backward<R: Real>(dy: &[R], places: &[usize], count: usize, width: usize) -> Vec<R> {
    let mut dtable = vec![zero(); count * width];
    for (i, &dy) in dy.iter().enumerate() {
        dtable[places[i / width] * width + i % width] += dy;
    }
    dtable
}
