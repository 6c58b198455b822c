//! Neighbours taken in groups where there are more than a figure shows, and their means.

use std::ops::Range;

/// The mean of the values that are finite.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values
        .filter(|v| v.is_finite())
        .fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
    (count > 0).then(|| sum / count as f64)
}

/// How many stand in a group where there are as few equal ones as `most` allows.
pub(super) fn group(items: usize, most: usize) -> usize {
    items.div_ceil(most).max(1)
}

/// `items` in such groups; the last may be smaller.
pub(super) fn groups(items: usize, most: usize) -> Vec<Range<usize>> {
    let size = group(items, most);
    let starts = (0..items).step_by(size);
    starts.map(|from| from..items.min(from + size)).collect()
}
