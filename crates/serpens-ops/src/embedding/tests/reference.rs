//! The definition, in f64 the truth and in f32 the yardstick.

use crate::shared::tests::real::{Real, zero};

/// y\[i\] = table\[ids\[i\]\]; table: (vocabulary, cols), y: (ids, cols).
pub fn forward<R: Real>(ids: &[u32], table: &[R], cols: usize) -> Vec<R> {
    let rows = ids.iter().map(|&id| id as usize);
    rows.flat_map(|id| table[id * cols..(id + 1) * cols].to_vec())
        .collect()
}

/// dtable: (vocabulary, cols), the sum of the rows of dy at each id.
pub fn backward<R: Real>(ids: &[u32], dy: &[R], vocabulary: usize, cols: usize) -> Vec<R> {
    let mut dtable = vec![zero(); vocabulary * cols];
    for (i, &id) in ids.iter().enumerate() {
        for c in 0..cols {
            dtable[id as usize * cols + c] += dy[i * cols + c];
        }
    }
    dtable
}
