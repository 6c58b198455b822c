//! The definitions, plain loops over dense (rows, cols) matrices: in f64 the truth, in f32 the yardstick of a kernel's
//! error.

use crate::shared::tests::real::{Real, zero};

/// Σ x.
pub fn sum<R: Real>(x: &[R]) -> R {
    let mut sum = zero();
    for x in x {
        sum += *x;
    }
    sum
}

/// Σ_c x\[r, c\] for each row.
pub fn sum_last<R: Real>(x: &[R], cols: usize) -> Vec<R> {
    x.chunks_exact(cols).map(sum).collect()
}

/// Σ (a − b)² / count.
pub fn mean_squared_error<R: Real>(a: &[R], b: &[R]) -> R {
    let squares = a.iter().zip(b).map(|(a, b)| (*a - *b) * (*a - *b));
    sum(&squares.collect::<Vec<R>>()) / R::from(a.len() as f32)
}

/// The gradient of [`mean_squared_error`] with respect to a; that of b is its negative.
pub fn mean_squared_error_backward<R: Real>(dy: R, a: &[R], b: &[R]) -> Vec<R> {
    let count = R::from(a.len() as f32);
    let pairs = a.iter().zip(b);
    pairs
        .map(|(a, b)| R::from(2.0) * (*a - *b) * dy / count)
        .collect()
}
