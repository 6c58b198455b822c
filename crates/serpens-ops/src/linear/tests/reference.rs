//! The definition, in f64 the truth and in f32 the yardstick.

use crate::shared::tests::real::{Real, zero};

/// y: (rows, d_out) = x Wᵀ + b; x: (rows, d_in), w: (d_out, d_in).
pub fn forward<R: Real>(
    x: &[R],
    w: &[R],
    b: Option<&[R]>,
    d_in: usize,
    d_out: usize,
    rows: usize,
) -> Vec<R> {
    let mut y = vec![zero(); rows * d_out];
    for r in 0..rows {
        for o in 0..d_out {
            let dot: R = (0..d_in).map(|i| x[r * d_in + i] * w[o * d_in + i]).sum();
            y[r * d_out + o] = dot + b.map_or(zero(), |b| b[o]);
        }
    }
    y
}

/// dx: (rows, d_in) = dy W.
pub fn backward_input<R: Real>(
    dy: &[R],
    w: &[R],
    d_in: usize,
    d_out: usize,
    rows: usize,
) -> Vec<R> {
    let mut dx = vec![zero(); rows * d_in];
    for r in 0..rows {
        for i in 0..d_in {
            dx[r * d_in + i] = (0..d_out)
                .map(|o| dy[r * d_out + o] * w[o * d_in + i])
                .sum();
        }
    }
    dx
}

/// dW: (d_out, d_in) = dyᵀ x.
pub fn backward_weight<R: Real>(
    dy: &[R],
    x: &[R],
    d_in: usize,
    d_out: usize,
    rows: usize,
) -> Vec<R> {
    let mut dw = vec![zero(); d_out * d_in];
    for o in 0..d_out {
        for i in 0..d_in {
            dw[o * d_in + i] = (0..rows).map(|r| dy[r * d_out + o] * x[r * d_in + i]).sum();
        }
    }
    dw
}
