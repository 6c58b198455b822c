//! Matrix products by the `gemm` crate, and a product of our own for the few rows of decoding.

use gemm::Parallelism;
use serpens_core::{Mat, MatMut, Result};

use super::Weight;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{SMALL, for_each_task};
use crate::simd::{self, Simd, WithSimd, load};
use crate::{quantized_linear, rms_norm};

/// Multiplications below which a product stays on the calling thread.
const SMALL_PRODUCT: usize = 50_000;

/// Up to this many rows, dot products along the rows of W beat a general product, whose packing of W costs as much as
/// using it. A row of [`forward`] has the same bits among any number of others up to this one, and among any number
/// beyond.
pub const FEW_ROWS: usize = 128;

/// y = x Wᵀ + b; x: (rows, d_in), w: (d_out, d_in), b: (d_out), y: (rows, d_out).
///
/// # Panics
/// If the shapes disagree.
pub fn forward(x: Mat, w: &[f32], b: Option<&[f32]>, y: MatMut) {
    let (d_in, d_out) = (x.cols(), y.cols());
    assert_eq!(w.len(), d_out * d_in, "weight");
    plain(x, Mat::new(w, d_out, d_in, d_in, 0), b, y, false);
}

/// As [`forward`] with a matrix as it is stored; added to what y holds where `accumulate`.
pub(super) fn step(
    x: Mat,
    w: Weight<'_>,
    b: Option<&[f32]>,
    y: MatMut,
    accumulate: bool,
) -> Result<()> {
    match w {
        Weight::Plain(w) => plain(x, w.mat()?, b, y, accumulate),
        Weight::Packed(w) => quantized_linear::cpu::product(x, w, b, y, accumulate),
    }
    Ok(())
}

/// Runs `f` with x / √(mean x² + eps) ⊙ w.
pub(super) fn normalised<R>(x: Mat, w: &[f32], eps: f32, f: impl FnOnce(Mat) -> R) -> R {
    let (rows, cols) = (x.rows(), x.cols());
    with_scratch(rows * cols + rows, |scratch| {
        let (y, rstd) = scratch.split_at_mut(rows * cols);
        let normal = MatMut::new(y, rows, cols, cols, 0);
        rms_norm::cpu::forward(x, None, w, eps, None, normal, rstd);
        f(Mat::new(y, rows, cols, cols, 0))
    })
}

/// y = x Wᵀ + b, added to what y holds where `accumulate`.
fn plain(x: Mat, w: Mat, b: Option<&[f32]>, mut y: MatMut, accumulate: bool) {
    let (rows, d_in, d_out) = (x.rows(), x.cols(), y.cols());
    assert_eq!(y.rows(), rows, "rows");
    assert_eq!((w.rows(), w.cols()), (d_out, d_in), "weight");
    assert!(b.is_none_or(|b| b.len() == d_out), "bias");
    if rows <= FEW_ROWS {
        return few_rows(x, w, b, y, accumulate);
    }
    if let Some(b) = b {
        start_rows(&mut y, b, accumulate);
    }
    let accumulate = accumulate || b.is_some();
    product(Operand::plain(x), Operand::transposed(w), y, accumulate);
}

/// Sets every row of y to `b`, which the product is then added to, or adds it where `accumulate`.
fn start_rows(y: &mut MatMut, b: &[f32], accumulate: bool) {
    let (rows, block) = (y.rows(), (SMALL / b.len().max(1)).max(1));
    let y = &*y;
    for_each_task(rows * b.len(), rows.div_ceil(block), |task| {
        for r in task * block..rows.min((task + 1) * block) {
            // SAFETY: each task has its own rows.
            let y = unsafe { y.part(r, 0, b.len()) };
            match accumulate {
                true => y.iter_mut().zip(b).for_each(|(y, b)| *y += b),
                false => y.copy_from_slice(b),
            }
        }
    });
}

/// dx = dy W, added to what `dx` holds where `accumulate`; dy: (rows, d_out), w: (d_out, d_in), dx: (rows, d_in).
///
/// # Panics
/// If the shapes disagree.
pub fn backward_input(dy: Mat, w: &[f32], dx: MatMut, accumulate: bool) {
    let (d_in, d_out) = (dx.cols(), dy.cols());
    assert_eq!(w.len(), d_out * d_in, "weight");
    let w = Mat::new(w, d_out, d_in, d_in, 0);
    product(Operand::plain(dy), Operand::plain(w), dx, accumulate);
}

/// dW = dyᵀ x, added to what `dw` holds where `accumulate`; dy: (rows, d_out), x: (rows, d_in), dw: (d_out, d_in).
///
/// # Panics
/// If the shapes disagree.
pub fn backward_weight(dy: Mat, x: Mat, dw: &mut [f32], accumulate: bool) {
    let (d_in, d_out) = (x.cols(), dy.cols());
    assert_eq!(dw.len(), d_out * d_in, "weight");
    let dw = MatMut::new(dw, d_out, d_in, d_in, 0);
    product(Operand::transposed(dy), Operand::plain(x), dw, accumulate);
}

/// A factor of a product: a matrix as it lies in memory, or its transpose.
struct Operand<'a> {
    values: Mat<'a>,
    transposed: bool,
}

impl<'a> Operand<'a> {
    fn plain(values: Mat<'a>) -> Self {
        Self {
            values,
            transposed: false,
        }
    }

    fn transposed(values: Mat<'a>) -> Self {
        Self {
            values,
            transposed: true,
        }
    }

    /// (rows, columns) of the factor.
    fn shape(&self) -> (usize, usize) {
        match self.transposed {
            false => (self.values.rows(), self.values.cols()),
            true => (self.values.cols(), self.values.rows()),
        }
    }

    /// Distance in memory between neighbours of a row, and of a column.
    fn strides(&self) -> (isize, isize) {
        // A slice is never longer than isize::MAX bytes, so neither is a stride.
        match self.transposed {
            false => (1, self.values.stride() as isize),
            true => (self.values.stride() as isize, 1),
        }
    }
}

/// y = a b, or y + a b where `accumulate`.
fn product(a: Operand, b: Operand, mut y: MatMut, accumulate: bool) {
    let ((m, k), (k_of_b, n)) = (a.shape(), b.shape());
    assert_eq!((m, k, n), (y.rows(), k_of_b, y.cols()), "shapes");
    let parallelism = if m * n * k < SMALL_PRODUCT {
        Parallelism::None
    } else {
        Parallelism::Rayon(rayon::current_num_threads())
    };
    let ((a_column, a_row), (b_column, b_row)) = (a.strides(), b.strides());
    let y_row = y.stride() as isize;
    // SAFETY: by the asserts every index below m, n, k lies inside its matrix, each of which is valid for its strides,
    // and y is borrowed uniquely.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            y_row,
            accumulate,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows of W of one task: at usual widths they stay in the second-level cache while all rows of x meet them.
const TASK_OUTPUTS: usize = 16;

/// The forward pass for few rows: W is read once, in order, and nothing is packed.
fn few_rows(x: Mat, w: Mat, b: Option<&[f32]>, y: MatMut, accumulate: bool) {
    let (d_in, d_out) = (x.cols(), y.cols());
    let tasks = d_out.div_ceil(TASK_OUTPUTS);
    // A multiplication out of the cache takes about an eighth of the time of a value that comes from memory and goes
    // there.
    for_each_task(x.rows() * d_in * d_out / 8, tasks, |task| {
        let from = task * TASK_OUTPUTS;
        let to = d_out.min(from + TASK_OUTPUTS);
        simd::dispatch(DotProducts {
            x,
            w,
            b,
            y: &y,
            accumulate,
            from,
            to,
        });
    });
}

/// y\[r, o\] = ⟨x\[r\], w\[o\]⟩ + b\[o\] for the o in `from..to`, which are this task's own; added to what y holds where
/// `accumulate`.
#[derive(Clone, Copy)]
struct DotProducts<'a> {
    x: Mat<'a>,
    w: Mat<'a>,
    b: Option<&'a [f32]>,
    y: &'a MatMut<'a>,
    accumulate: bool,
    from: usize,
    to: usize,
}

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows = self.x.rows();
        for r in (0..rows).step_by(4) {
            match rows - r {
                1 => self.group::<S, 1>(s, r),
                2 => self.group::<S, 2>(s, r),
                3 => self.group::<S, 3>(s, r),
                _ => self.group::<S, 4>(s, r),
            }
        }
    }
}

impl DotProducts<'_> {
    /// The R rows from `r` on.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(self, s: S, r: usize) {
        let x = std::array::from_fn(|i| self.x.row(r + i));
        // SAFETY: these columns belong to this task alone, and the rows differ.
        let mut y = std::array::from_fn(|i| unsafe { self.y.part(r + i, self.from, self.to) });
        let mut o = 0;
        while o + 4 <= self.to - self.from {
            self.dots::<S, R, 4>(s, x, &mut y, o);
            o += 4;
        }
        while o < self.to - self.from {
            self.dots::<S, R, 1>(s, x, &mut y, o);
            o += 1;
        }
    }

    /// The O outputs from `from + o` on, of R rows.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const O: usize>(
        self,
        s: S,
        x: [&[f32]; R],
        y: &mut [&mut [f32]; R],
        o: usize,
    ) {
        let (first, d_in) = (self.from + o, self.x.cols());
        let w: [&[f32]; O] = std::array::from_fn(|i| self.w.row(first + i));
        let mut sums = [[s.splat_f32s(0.0); O]; R];
        for c in (0..d_in).step_by(S::F32_LANES) {
            let mut weights = [s.splat_f32s(0.0); O];
            for (weight, w) in weights.iter_mut().zip(w) {
                *weight = load(s, &w[c..]);
            }
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load(s, &x[c..]);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = s.mul_add_f32s(x, weight, *sum);
                }
            }
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            for (i, sum) in sums.into_iter().enumerate() {
                let dot = s.reduce_sum_f32s(sum) + self.b.map_or(0.0, |b| b[first + i]);
                y[o + i] = if self.accumulate { y[o + i] + dot } else { dot };
            }
        }
    }
}
