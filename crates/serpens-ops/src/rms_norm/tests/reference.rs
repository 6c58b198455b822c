//! The definition, in f64 the truth and in f32 the yardstick.

use crate::shared::tests::real::{Real, one, zero};

/// h: (rows, cols), y: (rows, cols), r: (rows), from x and an optional residual.
pub fn forward<R: Real>(
    x: &[R],
    residual: Option<&[R]>,
    w: &[R],
    eps: R,
) -> (Vec<R>, Vec<R>, Vec<R>) {
    let cols = w.len();
    let h: Vec<R> = (0..x.len())
        .map(|i| x[i] + residual.map_or(zero(), |residual| residual[i]))
        .collect();
    let mean_square = |row: &[R]| row.iter().map(|h| *h * *h).sum::<R>() / R::from(cols as f32);
    let r: Vec<R> = h
        .chunks_exact(cols)
        .map(|row| one::<R>() / (mean_square(row) + eps).sqrt())
        .collect();
    let y = (0..h.len())
        .map(|i| h[i] * r[i / cols] * w[i % cols])
        .collect();
    (h, y, r)
}

/// (dh, dw): the gradients of h, `dh_extra` included, and of w.
pub fn backward<R: Real>(
    dy: &[R],
    dh_extra: Option<&[R]>,
    h: &[R],
    w: &[R],
    r: &[R],
) -> (Vec<R>, Vec<R>) {
    let cols = w.len();
    let (mut dh, mut dw) = (vec![zero(); h.len()], vec![zero(); cols]);
    for (row, &r) in r.iter().enumerate() {
        let at = |c: usize| row * cols + c;
        let dot: R = (0..cols).map(|c| w[c] * dy[at(c)] * h[at(c)]).sum();
        for c in 0..cols {
            let i = at(c);
            dh[i] = dh_extra.map_or(zero(), |extra| extra[i]) + r * w[c] * dy[i]
                - h[i] * (r * r * r) / R::from(cols as f32) * dot;
            dw[c] += dy[i] * h[i] * r;
        }
    }
    (dh, dw)
}
