//! The definition, in f64 the truth and in f32 the yardstick.

use crate::shared::tests::real::{Real, zero};

/// y: (rows, heads · cols), from x: (rows, cols).
pub fn forward<R: Real>(x: &[R], scale: &[R], offset: &[R], cols: usize) -> Vec<R> {
    let rows = x.chunks_exact(cols);
    let of_row = |x: &[R]| {
        let value = |j: usize| x[j % cols] * scale[j] + offset[j];
        (0..scale.len()).map(value).collect::<Vec<R>>()
    };
    rows.flat_map(of_row).collect()
}

/// The gradients of x, scale and offset.
pub fn backward<R: Real>(dy: &[R], x: &[R], scale: &[R], cols: usize) -> [Vec<R>; 3] {
    let width = scale.len();
    let [mut dx, mut dscale, mut doffset] = [x.len(), width, width].map(|len| vec![zero(); len]);
    for (row, dy) in dy.chunks_exact(width).enumerate() {
        for (j, &dy) in dy.iter().enumerate() {
            let i = row * cols + j % cols;
            dx[i] += scale[j] * dy;
            dscale[j] += dy * x[i];
            doffset[j] += dy;
        }
    }
    [dx, dscale, doffset]
}
