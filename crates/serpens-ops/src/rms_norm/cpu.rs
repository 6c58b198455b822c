//! Normalisation kernels: lanes over the channels of a row, threads over blocks of rows.

use std::ops::RangeInclusive;

use serpens_core::{Mat, MatMut};

use crate::elementwise::cpu::sum_rows;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{SMALL, for_each_task, reduction_block};
use crate::simd::{self, Simd, WithSimd, load, store};

/// Partial sums of a row kept apart, so that the additions of consecutive vectors do not wait for each other.
const CHAINS: usize = 4;

/// h = x + residual, y = h · r ⊙ w, rstd\[row\] = r = (mean(h²) + eps)^−½. h is written where `h_out` asks for it.
///
/// # Panics
/// If the shapes disagree.
pub fn forward(
    x: Mat,
    residual: Option<Mat>,
    w: &[f32],
    eps: f32,
    h_out: Option<MatMut>,
    y: MatMut,
    rstd: &mut [f32],
) {
    let (rows, cols) = (x.rows(), x.cols());
    let same = |r: usize, c: usize| assert_eq!((r, c), (rows, cols), "shape");
    same(y.rows(), y.cols());
    same(rstd.len(), w.len());
    residual.iter().for_each(|m| same(m.rows(), m.cols()));
    h_out.iter().for_each(|m| same(m.rows(), m.cols()));
    let block = (SMALL / cols.max(1)).max(1);
    let rstd = MatMut::new(rstd, 1, rows, rows, 0);
    for_each_task(rows * cols, rows.div_ceil(block), |task| {
        let (from, to) = (task * block, rows.min((task + 1) * block));
        // SAFETY: each task has its own rows of every output.
        let rstd = unsafe { rstd.part(0, from, to) };
        for (r, rstd) in (from..to).zip(rstd) {
            simd::dispatch(ForwardRow {
                x: x.row(r),
                residual: residual.map(|m| m.row(r)),
                w,
                eps,
                // SAFETY: as above.
                h: h_out.as_ref().map(|m| unsafe { m.part(r, 0, cols) }),
                // SAFETY: as above.
                y: unsafe { y.part(r, 0, cols) },
                rstd,
            });
        }
    });
}

/// What the mean square of a row may be for f32 to hold all squares that matter in it.
const SQUARES: RangeInclusive<f32> = 1e-36..=f32::MAX;

/// The `rstd` of rows whose gradient f32 can hold on the way too, where it is cubed.
const RSTD: RangeInclusive<f32> = 1e-8..=1e8;

/// The row y, which holds h, times its rstd and w, for the few rows that are too large or too small for f32.
fn normalise_in_f64(y: &mut [f32], w: &[f32], eps: f32) -> f32 {
    let squares: f64 = y.iter().map(|&h| f64::from(h).powi(2)).sum();
    let rstd = (squares / y.len() as f64 + f64::from(eps)).sqrt().recip();
    for (y, &w) in y.iter_mut().zip(w) {
        *y = (f64::from(*y) * rstd * f64::from(w)) as f32;
    }
    rstd as f32
}

struct ForwardRow<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    w: &'a [f32],
    eps: f32,
    h: Option<&'a mut [f32]>,
    y: &'a mut [f32],
    rstd: &'a mut f32,
}

impl WithSimd for ForwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            x,
            residual,
            w,
            eps,
            mut h,
            y,
            rstd,
        } = self;
        let mut sums = [s.splat_f32s(0.0); CHAINS];
        for (i, c) in (0..x.len()).step_by(S::F32_LANES).enumerate() {
            let mut value = load(s, &x[c..]);
            if let Some(residual) = residual {
                value = s.add_f32s(value, load(s, &residual[c..]));
            }
            if let Some(h) = &mut h {
                store(s, &mut h[c..], value);
            }
            // y serves as the row of h until the scale is known.
            store(s, &mut y[c..], value);
            sums[i % CHAINS] = s.mul_add_f32s(value, value, sums[i % CHAINS]);
        }
        let mean_square = reduce(s, sums) / x.len() as f32;
        if !SQUARES.contains(&(mean_square + eps)) {
            *rstd = normalise_in_f64(y, w, eps);
            return;
        }
        *rstd = (mean_square + eps).sqrt().recip();
        let r = s.splat_f32s(*rstd);
        for c in (0..x.len()).step_by(S::F32_LANES) {
            let value = s.mul_f32s(s.mul_f32s(load(s, &y[c..]), r), load(s, &w[c..]));
            store(s, &mut y[c..], value);
        }
    }
}

/// The sum of all lanes of all chains.
#[inline(always)]
fn reduce<S: Simd>(s: S, sums: [S::f32s; CHAINS]) -> f32 {
    let [a, b, c, d] = sums;
    s.reduce_sum_f32s(s.add_f32s(s.add_f32s(a, b), s.add_f32s(c, d)))
}

/// What [`backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The normalised input, x + residual: (rows, d_model).
    pub h: Mat<'a>,
    /// The weight: (d_model).
    pub w: &'a [f32],
    /// (mean(h²) + eps)^−½: (rows).
    pub rstd: &'a [f32],
}

/// dx = the gradient of h (of x and of the residual alike), `dh_extra` included; dw = Σ_rows dy ⊙ h·r, added to what
/// `dw` holds where `accumulate`.
///
/// # Panics
/// If the shapes disagree.
pub fn backward(
    dy: Mat,
    dh_extra: Option<Mat>,
    saved: Saved,
    dx: MatMut,
    dw: &mut [f32],
    accumulate: bool,
) {
    let (rows, cols) = (dy.rows(), dy.cols());
    let same = |r: usize, c: usize| assert_eq!((r, c), (rows, cols), "shape");
    same(dx.rows(), dx.cols());
    same(saved.h.rows(), saved.h.cols());
    same(saved.rstd.len(), saved.w.len());
    same(rows, dw.len());
    dh_extra.iter().for_each(|m| same(m.rows(), m.cols()));
    let block = reduction_block(rows);
    let blocks = rows.div_ceil(block);
    with_scratch(blocks * cols, |partials| {
        let shared = MatMut::new(partials, blocks, cols, cols, 0);
        for_each_task(rows * cols, blocks, |task| {
            // SAFETY: each task has its own row of partial sums.
            let dw = unsafe { shared.part(task, 0, cols) };
            dw.fill(0.0);
            for r in task * block..rows.min((task + 1) * block) {
                let row = BackwardRow {
                    dy: dy.row(r),
                    dh_extra: dh_extra.map(|m| m.row(r)),
                    h: saved.h.row(r),
                    w: saved.w,
                    rstd: saved.rstd[r],
                    // SAFETY: each task has its own rows.
                    dx: unsafe { dx.part(r, 0, cols) },
                    dw,
                };
                match RSTD.contains(&saved.rstd[r]) {
                    true => simd::dispatch(row),
                    false => row.in_f64(),
                }
            }
        });
        sum_rows(Mat::new(partials, blocks, cols, cols, 0), dw, accumulate);
    });
}

struct BackwardRow<'a> {
    dy: &'a [f32],
    dh_extra: Option<&'a [f32]>,
    h: &'a [f32],
    w: &'a [f32],
    rstd: f32,
    dx: &'a mut [f32],
    dw: &'a mut [f32],
}

impl BackwardRow<'_> {
    /// For the few rows that are too large or too small for f32.
    fn in_f64(self) {
        let wide = |x: &[f32], c: usize| f64::from(x[c]);
        let (r, cols) = (f64::from(self.rstd), self.dy.len());
        let weighted = |c| wide(self.w, c) * wide(self.dy, c);
        let normal = |c| wide(self.h, c) * r;
        let mean = (0..cols).map(|c| weighted(c) * normal(c)).sum::<f64>() / cols as f64;
        for c in 0..cols {
            self.dw[c] += (wide(self.dy, c) * normal(c)) as f32;
            let extra = self.dh_extra.map_or(0.0, |extra| wide(extra, c));
            self.dx[c] = (extra + r * (weighted(c) - normal(c) * mean)) as f32;
        }
    }
}

impl WithSimd for BackwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            dy,
            dh_extra,
            h,
            w,
            rstd,
            dx,
            dw,
        } = self;
        let cols = dy.len();
        let r = s.splat_f32s(rstd);
        let mut sums = [s.splat_f32s(0.0); CHAINS];
        for (i, c) in (0..cols).step_by(S::F32_LANES).enumerate() {
            let product = s.mul_f32s(load(s, &dy[c..]), load(s, &h[c..]));
            let sum = s.mul_add_f32s(product, load(s, &w[c..]), sums[i % CHAINS]);
            sums[i % CHAINS] = sum;
            let weight_gradient = s.mul_add_f32s(product, r, load(s, &dw[c..]));
            store(s, &mut dw[c..], weight_gradient);
        }
        let dot = reduce(s, sums);
        let along_h = s.splat_f32s(-dot * rstd * rstd * rstd / cols as f32);
        for c in (0..cols).step_by(S::F32_LANES) {
            let scaled = s.mul_f32s(s.mul_f32s(load(s, &w[c..]), load(s, &dy[c..])), r);
            let mut gradient = s.mul_add_f32s(along_h, load(s, &h[c..]), scaled);
            if let Some(extra) = dh_extra {
                gradient = s.add_f32s(gradient, load(s, &extra[c..]));
            }
            store(s, &mut dx[c..], gradient);
        }
    }
}
