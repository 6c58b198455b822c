//! The definition.

/// The values of grids of (rows, columns, width), column by column.
pub fn swapped<T: Copy>(x: &[T], [rows, columns]: [usize; 2], width: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for grid in x.chunks_exact((rows * columns * width).max(1)) {
        for c in 0..columns {
            for r in 0..rows {
                y.extend(&grid[(r * columns + c) * width..][..width]);
            }
        }
    }
    y
}
