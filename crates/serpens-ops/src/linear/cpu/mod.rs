//! Matrix products by the `gemm` crate, and a product of our own for the few rows of decoding.

pub(super) mod few_rows;

use gemm::Parallelism;
use serpens_core::{DType, Mat, MatMut, Result, bf16};

use super::Weight;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{SMALL, for_each_task};
use crate::simd::{self, Isa, Simd, Stored, WithSimd, store};
use crate::{quantized_linear, rms_norm};
use few_rows::few_rows;

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
        Weight::Plain(w) if w.dtype() == DType::BF16 => {
            plain(x, w.mat_of::<bf16>()?, b, y, accumulate);
        }
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
fn plain<T: Weights>(x: Mat, w: Mat<T>, b: Option<&[f32]>, mut y: MatMut, accumulate: bool) {
    let (rows, d_in, d_out) = (x.rows(), x.cols(), y.cols());
    assert_eq!(y.rows(), rows, "rows");
    assert_eq!((w.rows(), w.cols()), (d_out, d_in), "weight");
    assert!(b.is_none_or(|b| b.len() == d_out), "bias");
    if rows <= FEW_ROWS {
        return few_rows(Isa::current(), x, w, b, y, accumulate);
    }
    if let Some(b) = b {
        start_rows(&mut y, b, accumulate);
    }
    T::many_rows(x, w, y, accumulate || b.is_some());
}

/// A type of W.
trait Weights: Stored {
    /// y = x Wᵀ, added to what y holds where `accumulate`.
    fn many_rows(x: Mat, w: Mat<Self>, y: MatMut, accumulate: bool);
}

impl Weights for f32 {
    fn many_rows(x: Mat, w: Mat, y: MatMut, accumulate: bool) {
        product(Operand::plain(x), Operand::transposed(w), y, accumulate);
    }
}

/// Values of W that are widened at a time: what the cache holds besides x.
const WIDE: usize = 1 << 18;

impl Weights for bf16 {
    fn many_rows(x: Mat, w: Mat<bf16>, mut y: MatMut, accumulate: bool) {
        let (d_in, d_out) = (w.cols(), w.rows());
        let most = (WIDE / d_in.max(1)).max(16);
        for from in (0..d_out).step_by(most) {
            let outputs = most.min(d_out - from);
            with_scratch(outputs * d_in, |wide| {
                widen(w, from, MatMut::new(&mut *wide, outputs, d_in, d_in, 0));
                // SAFETY: the columns `from..from + outputs` of y, which is borrowed uniquely.
                let y = unsafe {
                    MatMut::from_raw(y.as_mut_ptr().add(from), x.rows(), outputs, y.stride())
                };
                let wide = Mat::new(wide, outputs, d_in, d_in, 0);
                product(Operand::plain(x), Operand::transposed(wide), y, accumulate);
            });
        }
    }
}

/// The rows of W from `from` on, as many as `wide` has.
fn widen(w: Mat<bf16>, from: usize, wide: MatMut) {
    let (rows, cols) = (wide.rows(), wide.cols());
    let block = (SMALL / cols.max(1)).max(1);
    for_each_task(rows * cols, rows.div_ceil(block), |task| {
        for r in task * block..rows.min((task + 1) * block) {
            let x = w.row(from + r);
            // SAFETY: each task has its own rows.
            let y = unsafe { wide.part(r, 0, cols) };
            simd::dispatch(Widen { x, y });
        }
    });
}

struct Widen<'a> {
    x: &'a [bf16],
    y: &'a mut [f32],
}

impl WithSimd for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for c in (0..self.x.len()).step_by(S::F32_LANES) {
            store(s, &mut self.y[c..], bf16::lanes(s, &self.x[c..]));
        }
    }
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
