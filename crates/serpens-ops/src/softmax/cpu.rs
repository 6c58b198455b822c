//! The softmax on the processor: lanes over the columns, threads over rows.

use serpens_core::{Mat, MatMut};

use super::Form;
use crate::shared::tasks::{Pieces, SMALL};
use crate::simd::{self, Simd, WithSimd, exp, load, store};

/// Values added in f32 before the partial sum goes on in f64.
const SUM_BLOCK: usize = 1024;

/// y = the softmax of each row of x, or its logarithm.
///
/// # Panics
/// If the shapes differ.
pub fn forward(form: Form, x: Mat, y: MatMut) {
    let (rows, cols) = (x.rows(), x.cols());
    assert_eq!((y.rows(), y.cols()), (rows, cols), "shape of an output");
    each_row(rows, cols, |r| {
        let x = x.row(r);
        // SAFETY: each row is written once.
        let y = unsafe { y.part(r, 0, cols) };
        simd::dispatch(ForwardRow { form, x, y });
    });
}

/// dx from the gradient that arrives at y.
///
/// # Panics
/// If the shapes differ.
pub fn backward(form: Form, y: Mat, dy: Mat, dx: MatMut) {
    let (rows, cols) = (dx.rows(), dx.cols());
    for m in [y, dy] {
        assert_eq!((m.rows(), m.cols()), (rows, cols), "shape of an input");
    }
    each_row(rows, cols, |r| {
        let (y, dy) = (y.row(r), dy.row(r));
        // SAFETY: each row is written once.
        let dx = unsafe { dx.part(r, 0, cols) };
        simd::dispatch(BackwardRow { form, y, dy, dx });
    });
}

/// Does `work` with every row, a piece with whole rows.
fn each_row(rows: usize, cols: usize, work: impl Fn(usize) + Sync) {
    Pieces::new(rows, cols.min(SMALL)).for_each(|_, rows, _, _| rows.for_each(&work));
}

struct ForwardRow<'a> {
    form: Form,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for ForwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { form, x, y } = self;
        let max = s.splat_f32s(maximum(s, x));
        let mut total = 0.0_f64;
        for start in (0..x.len()).step_by(SUM_BLOCK) {
            let end = x.len().min(start + SUM_BLOCK);
            for c in (start..end).step_by(S::F32_LANES) {
                let power = exp(s, s.sub_f32s(load(s, &x[c..]), max));
                store(s, &mut y[c..], power);
            }
            total += f64::from(sum(s, &y[start..end]));
        }
        match form {
            Form::Softmax => {
                let share = s.splat_f32s((1.0 / total) as f32);
                for c in (0..x.len()).step_by(S::F32_LANES) {
                    let probability = s.mul_f32s(load(s, &y[c..]), share);
                    store(s, &mut y[c..], probability);
                }
            }
            Form::LogSoftmax => {
                let log = s.splat_f32s(total.ln() as f32);
                for c in (0..x.len()).step_by(S::F32_LANES) {
                    // The larger of both last: together they may be too large for a number to hold the smaller one.
                    let above = s.sub_f32s(load(s, &x[c..]), max);
                    store(s, &mut y[c..], s.sub_f32s(above, log));
                }
            }
        }
    }
}

struct BackwardRow<'a> {
    form: Form,
    y: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for BackwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { form, y, dy, dx } = self;
        let mut total = 0.0_f64;
        for (y, dy) in y.chunks(SUM_BLOCK).zip(dy.chunks(SUM_BLOCK)) {
            total += f64::from(match form {
                Form::Softmax => dot(s, y, dy),
                Form::LogSoftmax => sum(s, dy),
            });
        }
        let total = s.splat_f32s(total as f32);
        for c in (0..y.len()).step_by(S::F32_LANES) {
            let (y, dy) = (load(s, &y[c..]), load(s, &dy[c..]));
            let gradient = match form {
                Form::Softmax => s.mul_f32s(y, s.sub_f32s(dy, total)),
                Form::LogSoftmax => s.negate_mul_add_f32s(exp(s, y), total, dy),
            };
            store(s, &mut dx[c..], gradient);
        }
    }
}

/// The largest value of `x`, −∞ for none; a NaN may pass unseen.
#[inline(always)]
fn maximum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(x);
    let mut max = s.splat_f32s(f32::NEG_INFINITY);
    for &x in vectors {
        max = s.max_f32s(max, x);
    }
    rest.iter().copied().fold(s.reduce_max_f32s(max), f32::max)
}

/// Σ x of a few values.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat_f32s(0.0);
    for c in (0..x.len()).step_by(S::F32_LANES) {
        sum = s.add_f32s(sum, load(s, &x[c..]));
    }
    s.reduce_sum_f32s(sum)
}

/// ⟨x, y⟩ of a few values.
#[inline(always)]
fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = s.splat_f32s(0.0);
    for c in (0..x.len()).step_by(S::F32_LANES) {
        sum = s.mul_add_f32s(load(s, &x[c..]), load(s, &y[c..]), sum);
    }
    s.reduce_sum_f32s(sum)
}
