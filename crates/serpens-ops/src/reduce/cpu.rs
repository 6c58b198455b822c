//! Reductions on the processor: lanes over the columns, threads over pieces of the values.

use serpens_core::{Mat, MatMut};

use crate::elementwise::cpu::{Function, evaluate};
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{Pieces, SMALL};
use crate::simd::{self, Simd, WithSimd, load};

/// Values added in f32 before the partial sum goes on in f64.
const SUM_BLOCK: usize = 1024;

/// Partial sums kept apart, so that the additions of consecutive vectors do not wait for each other.
const CHAINS: usize = 4;

/// A function of I values whose results are summed; that of zeros is zero.
trait Term<const I: usize>: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, x: [S::f32s; I]) -> S::f32s;
}

#[derive(Clone, Copy)]
struct Value;

impl Term<1> for Value {
    #[inline(always)]
    fn apply<S: Simd>(self, _: S, [x]: [S::f32s; 1]) -> S::f32s {
        x
    }
}

#[derive(Clone, Copy)]
struct SquaredError;

impl Term<2> for SquaredError {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [a, b]: [S::f32s; 2]) -> S::f32s {
        let difference = s.sub_f32s(a, b);
        s.mul_f32s(difference, difference)
    }
}

/// The sum of the terms of a stretch of values.
struct Sum<'a, T, const I: usize> {
    term: T,
    x: [&'a [f32]; I],
}

impl<T: Term<I>, const I: usize> WithSimd for Sum<'_, T, I> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f64 {
        let len = self.x[0].len();
        let mut total = 0.0;
        for start in (0..len).step_by(SUM_BLOCK) {
            let mut sums = [s.splat_f32s(0.0); CHAINS];
            let columns = (start..len.min(start + SUM_BLOCK)).step_by(S::F32_LANES);
            for (i, c) in columns.enumerate() {
                // A loop, not a closure: a closure is compiled without the instruction set of its surroundings.
                let mut values = [s.splat_f32s(0.0); I];
                for (values, x) in values.iter_mut().zip(self.x) {
                    *values = load(s, &x[c..]);
                }
                sums[i % CHAINS] = s.add_f32s(sums[i % CHAINS], self.term.apply(s, values));
            }
            let [a, b, c, d] = sums;
            let sum = s.add_f32s(s.add_f32s(a, b), s.add_f32s(c, d));
            total += f64::from(s.reduce_sum_f32s(sum));
        }
        total
    }
}

/// The sum of the terms of whole matrices of one shape: of pieces first, then over the pieces in order.
fn total<T: Term<I>, const I: usize>(term: T, x: [Mat; I]) -> f64 {
    let x = flat(x);
    let (rows, cols) = (x[0].rows(), x[0].cols());
    let pieces = Pieces::new(rows, cols);
    // Two values of f32 are the place of one of f64.
    with_scratch(2 * pieces.count(), |scratch| {
        let partials: &mut [f64] = bytemuck::cast_slice_mut(scratch);
        let shared = MatMut::dense(&mut *partials, 1);
        pieces.for_each(|piece, rows, from, to| {
            let sum = |r| {
                let x = x.map(|x| x.part(r, from, to));
                simd::dispatch(Sum { term, x })
            };
            // SAFETY: each piece has its own partial sum.
            let partial = unsafe { shared.part(piece, 0, 1) };
            partial[0] = rows.map(sum).sum();
        });
        partials.iter().sum()
    })
}

/// y = factor · Σ x: over everything where y is one value, over each row where it has one for each.
///
/// # Panics
/// If it has another number of values.
pub fn sum(x: Mat, factor: f32, y: &mut [f32]) {
    let (rows, cols) = (x.rows(), x.cols());
    let scaled = |sum: f64| (f64::from(factor) * sum) as f32;
    if let [y] = y {
        *y = scaled(total(Value, [x]));
        return;
    }
    assert_eq!(y.len(), rows, "one sum for each row");
    let y = MatMut::dense(y, 1);
    let of_row = |r| {
        let x = [x.row(r)];
        // SAFETY: each row is summed once.
        let y = unsafe { y.part(r, 0, 1) };
        y[0] = scaled(simd::dispatch(Sum { term: Value, x }));
    };
    // Without values there are no pieces, but sums. A piece has whole rows, or where they are longer begins one.
    if cols == 0 {
        return (0..rows).for_each(of_row);
    }
    Pieces::new(rows, cols.min(SMALL)).for_each(|_, rows, _, _| rows.for_each(of_row));
}

/// Matrices without gaps between their rows as one row each: narrow ones then fill their lanes too.
fn flat<const I: usize>(x: [Mat; I]) -> [Mat; I] {
    let len = x[0].rows() * x[0].cols();
    match x.iter().all(|x| x.stride() == x.cols()) {
        true => x.map(|x| Mat::dense(x.into_slice(), len)),
        false => x,
    }
}

/// dx\[r, c\] = factor · dy, or dy\[r\] where there is one for each row.
///
/// # Panics
/// If dy has another number of values.
pub fn spread(dy: &[f32], factor: f32, dx: MatMut) {
    let (rows, cols) = (dx.rows(), dx.cols());
    assert!(dy.len() == 1 || dy.len() == rows, "one value for each row");
    Pieces::new(rows, cols).for_each(|_, rows, from, to| {
        for r in rows {
            // SAFETY: each piece has its own rows and columns.
            unsafe { dx.part(r, from, to) }.fill(factor * dy[r.min(dy.len() - 1)]);
        }
    });
}

/// factor · Σ (a − b)².
///
/// # Panics
/// If the shapes differ.
pub fn squared_error(a: Mat, b: Mat, factor: f32) -> f32 {
    let same = (a.rows(), a.cols()) == (b.rows(), b.cols());
    assert!(same, "shape of an input");
    (f64::from(factor) * total(SquaredError, [a, b])) as f32
}

/// da = slope · (a − b), db = −da.
///
/// # Panics
/// If the shapes differ.
pub fn squared_error_backward(a: Mat, b: Mat, slope: f32, da: MatMut, db: MatMut) {
    evaluate(Differences(slope), [a, b], [da, db]);
}

#[derive(Clone, Copy)]
struct Differences(f32);

impl Function<2, 2> for Differences {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 2] {
        let gradient = s.mul_f32s(s.sub_f32s(a, b), s.splat_f32s(self.0));
        [gradient, s.neg_f32s(gradient)]
    }
}
