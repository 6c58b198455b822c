//! Elementwise kernels: lanes over the columns, threads over pieces of them.

use serpens_core::{Mat, MatMut, bf16};

use super::scalars::Scalars;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{Pieces, for_each_task, reduction_block};
use crate::simd::{self, Simd, WithSimd, load, store};

/// A function of I matrices that gives O matrices, value by value.
pub(crate) trait Function<const I: usize, const O: usize>: Copy + Send + Sync {
    /// The values of the outputs from those of the inputs.
    fn apply<S: Simd>(self, s: S, x: [S::f32s; I]) -> [S::f32s; O];
}

struct Rows<'a, F, const I: usize, const O: usize> {
    f: F,
    x: [&'a [f32]; I],
    y: [&'a mut [f32]; O],
}

impl<F: Function<I, O>, const I: usize, const O: usize> WithSimd for Rows<'_, F, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { f, x, mut y } = self;
        for c in (0..y[0].len()).step_by(S::F32_LANES) {
            // A loop, not a closure: a closure is compiled without the instruction set of its surroundings.
            let mut values = [s.splat_f32s(0.0); I];
            for (values, x) in values.iter_mut().zip(x) {
                *values = load(s, &x[c..]);
            }
            let new = f.apply(s, values);
            for (y, new) in y.iter_mut().zip(new) {
                store(s, &mut y[c..], new);
            }
        }
    }
}

/// Applies `f` to matrices of one shape.
pub(crate) fn evaluate<F: Function<I, O>, const I: usize, const O: usize>(
    f: F,
    mut x: [Mat; I],
    mut y: [MatMut; O],
) {
    let (rows, cols) = (y[0].rows(), y[0].cols());
    for (r, c) in x.iter().map(|x| (x.rows(), x.cols())) {
        assert_eq!((r, c), (rows, cols), "shape of an input");
    }
    for (r, c) in y.iter().map(|y| (y.rows(), y.cols())) {
        assert_eq!((r, c), (rows, cols), "shape of an output");
    }
    // Without gaps between them, all rows are one long row: narrow matrices then fill their lanes too.
    let dense = x.iter().all(|x| x.stride() == cols) && y.iter().all(|y| y.stride() == cols);
    let (rows, cols) = if dense && rows > 1 {
        let len = rows * cols;
        x = x.map(|x| Mat::new(x.into_slice(), 1, len, len, 0));
        for y in &mut y {
            // SAFETY: the rows of a matrix whose stride equals its width follow each other; the borrow is handed over
            // whole.
            *y = unsafe { MatMut::from_raw(y.as_mut_ptr(), 1, len, len) };
        }
        (1, len)
    } else {
        (rows, cols)
    };
    Pieces::new(rows, cols).for_each(|_, rows, from, to| {
        for r in rows {
            simd::dispatch(Rows {
                f,
                x: x.map(|x| x.part(r, from, to)),
                // SAFETY: each piece has its own rows and columns, and each output its own memory.
                y: std::array::from_fn(|o| unsafe { y[o].part(r, from, to) }),
            });
        }
    });
}

/// Declares a [`Function`]: its name, and its outputs from `s` and the inputs.
macro_rules! function {
    ($name:ident |$s:ident, $x:pat_param| -> $i:literal to $o:literal $body:block) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Function<$i, $o> for $name {
            #[inline(always)]
            fn apply<S: Simd>(self, $s: S, $x: [S::f32s; $i]) -> [S::f32s; $o] {
                $body
            }
        }
    };
}

function!(Add |s, [a, b]| -> 2 to 1 { [s.add_f32s(a, b)] });
function!(Sub |s, [a, b]| -> 2 to 1 { [s.sub_f32s(a, b)] });
function!(Mul |s, [a, b]| -> 2 to 1 { [s.mul_f32s(a, b)] });
function!(MulBackward |s, [dy, a, b]| -> 3 to 2 { [s.mul_f32s(dy, b), s.mul_f32s(dy, a)] });
function!(Silu |s, [x]| -> 1 to 1 { [simd::silu(s, x)] });
function!(SiluBackward |s, [dy, x]| -> 2 to 1 { [s.mul_f32s(dy, simd::silu_and_slope(s, x).1)] });
function!(SiluMul |s, [a, z]| -> 2 to 1 { [s.mul_f32s(a, simd::silu(s, z))] });
function!(SiluMulBackward |s, [dy, a, z]| -> 3 to 2 {
    let (silu, slope) = simd::silu_and_slope(s, z);
    [s.mul_f32s(dy, silu), s.mul_f32s(s.mul_f32s(dy, a), slope)]
});
function!(Gelu |s, [x]| -> 1 to 1 { [s.mul_f32s(x, simd::sigmoid(s, gelu_power(s, x)[0]))] });
function!(GeluBackward |s, [dy, x]| -> 2 to 1 { [s.mul_f32s(dy, gelu_slope(s, x))] });
function!(Exp |s, [x]| -> 1 to 1 { [simd::exp(s, x)] });
function!(NegExp |s, [x]| -> 1 to 1 { [s.neg_f32s(simd::exp(s, x))] });
function!(Log |s, [x]| -> 1 to 1 { [log_lanes(s, x)] });
function!(LogBackward |s, [dy, x]| -> 2 to 1 { [s.div_f32s(dy, x)] });
function!(Abs |s, [x]| -> 1 to 1 { [s.abs_f32s(x)] });
function!(AbsBackward |s, [dy, x]| -> 2 to 1 {
    let zero = s.splat_f32s(0.0);
    [s.select_f32s(s.equal_f32s(x, zero), zero, turned(s, dy, x))]
});
function!(Sigmoid |s, [x]| -> 1 to 1 { [simd::sigmoid(s, x)] });
function!(SigmoidBackward |s, [dy, x]| -> 2 to 1 { [s.mul_f32s(dy, sigmoid_slope(s, s.abs_f32s(x)))] });
function!(Tanh |s, [x]| -> 1 to 1 { [tanh_lanes(s, x)] });
function!(TanhBackward |s, [dy, x]| -> 2 to 1 {
    // tanh x = 2 σ(2x) − 1
    let doubled = s.abs_f32s(s.add_f32s(x, x));
    [s.mul_f32s(s.mul_f32s(dy, s.splat_f32s(4.0)), sigmoid_slope(s, doubled))]
});
function!(BinaryCrossEntropy |s, [x, t]| -> 2 to 1 {
    let size = s.abs_f32s(x);
    let rest = simd::log1p(s, simd::exp(s, s.neg_f32s(size)));
    [s.mul_add_f32s(missed(s, x, t), size, rest)]
});
function!(BinaryCrossEntropyBackward |s, [dy, x, t]| -> 3 to 1 {
    let small = simd::sigmoid(s, s.neg_f32s(s.abs_f32s(x)));
    [s.mul_f32s(turned(s, dy, x), s.sub_f32s(missed(s, x, t), small))]
});

/// dy with the sign turned where x is below 0.
#[inline(always)]
fn turned<S: Simd>(s: S, dy: S::f32s, x: S::f32s) -> S::f32s {
    s.select_f32s(s.less_than_f32s(x, s.splat_f32s(0.0)), s.neg_f32s(dy), dy)
}

/// How far the target is from the side that x is on: with it max(x, 0) − t·x is one product, which loses nothing where
/// the target is certain and x agrees, and σ(x) − t the difference to the smaller of σ(x) and σ(−x).
#[inline(always)]
fn missed<S: Simd>(s: S, x: S::f32s, t: S::f32s) -> S::f32s {
    let negative = s.less_than_f32s(x, s.splat_f32s(0.0));
    s.select_f32s(negative, t, s.sub_f32s(s.splat_f32s(1.0), t))
}

/// w of the head of this module, and its slope, of an x that is no larger than where σ(−|w|) is 0.
#[inline(always)]
fn gelu_power<S: Simd>(s: S, x: S::f32s) -> [S::f32s; 2] {
    const LINE: f32 = 1.595_769; // 2 √(2/π)
    const CUBE: f32 = LINE * 0.044_715;
    let x = simd::clamp(s, x, [-11.0, 11.0]);
    let (line, cube) = (s.splat_f32s(LINE), s.splat_f32s(CUBE));
    let square = s.mul_f32s(x, x);
    let power = s.mul_f32s(x, s.mul_add_f32s(cube, square, line));
    let thrice = s.mul_f32s(s.splat_f32s(3.0), cube);
    [power, s.mul_add_f32s(thrice, square, line)]
}

/// σ(w) + x·σ(w)·σ(−w)·w', from the smaller of the two logistic functions, of which the other loses nothing.
#[inline(always)]
fn gelu_slope<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let [power, slope] = gelu_power(s, x);
    let small = simd::sigmoid(s, s.neg_f32s(s.abs_f32s(power)));
    let large = s.sub_f32s(s.splat_f32s(1.0), small);
    let negative = s.less_than_f32s(x, s.splat_f32s(0.0));
    let sigmoid = s.select_f32s(negative, small, large);
    let product = s.mul_f32s(s.mul_f32s(x, small), large);
    s.mul_add_f32s(product, slope, sigmoid)
}

/// y = factor · x.
#[derive(Clone, Copy)]
struct Scale(f32);

impl Function<1, 1> for Scale {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::f32s; 1]) -> [S::f32s; 1] {
        [s.mul_f32s(x, s.splat_f32s(self.0))]
    }
}

/// σ'(x) = σ(−x)·(1 − σ(−x)) for x ≥ 0, where the difference loses nothing; it is even.
#[inline(always)]
fn sigmoid_slope<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let small = simd::sigmoid(s, s.neg_f32s(x));
    s.negate_mul_add_f32s(small, small, small)
}

/// ln x over all numbers: −∞ of 0, NaN of those below and of NaN.
#[inline(always)]
fn log_lanes<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let infinity = s.splat_f32s(f32::INFINITY);
    let zero = s.splat_f32s(0.0);
    // Subnormal numbers are brought among the normal ones.
    let subnormal = s.less_than_f32s(x, s.splat_f32s(f32::MIN_POSITIVE));
    let lifted = s.mul_f32s(x, s.splat_f32s((1 << 23) as f32));
    let lowered = s.splat_f32s(-23.0 * std::f32::consts::LN_2);
    let value = simd::ln(s, s.select_f32s(subnormal, lifted, x));
    let value = s.add_f32s(value, s.select_f32s(subnormal, lowered, zero));
    let edge = s.select_f32s(s.equal_f32s(x, infinity), infinity, s.splat_f32s(f32::NAN));
    let edge = s.select_f32s(s.equal_f32s(x, zero), s.neg_f32s(infinity), edge);
    let below = s.select_f32s(s.less_than_f32s(x, infinity), value, edge);
    s.select_f32s(s.less_than_f32s(zero, x), below, edge)
}

/// tanh x: an odd polynomial near zero (minimax, S. Moshier's Cephes), where 1 − e^−2|x| would lose small values.
#[inline(always)]
pub(crate) fn tanh_lanes<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let one = s.splat_f32s(1.0);
    let size = s.abs_f32s(x);
    let small = simd::exp(s, s.neg_f32s(s.add_f32s(size, size)));
    let far = s.div_f32s(s.sub_f32s(one, small), s.add_f32s(one, small));
    let far = s.select_f32s(s.less_than_f32s(x, s.splat_f32s(0.0)), s.neg_f32s(far), far);
    let square = s.mul_f32s(x, x);
    let mut series = s.splat_f32s(-5.704_988_7e-3);
    for coefficient in [2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        series = s.mul_add_f32s(series, square, s.splat_f32s(coefficient));
    }
    let near = s.mul_add_f32s(s.mul_f32s(series, square), x, x);
    let is_near = s.less_than_f32s(size, s.splat_f32s(0.625));
    let value = s.select_f32s(is_near, near, far);
    // NaN, whatever the powers made of it.
    s.select_f32s(s.equal_f32s(x, x), value, x)
}

/// y = a + b.
pub fn add(a: Mat, b: Mat, y: MatMut) {
    evaluate(Add, [a, b], [y]);
}

/// y = a − b.
pub fn sub(a: Mat, b: Mat, y: MatMut) {
    evaluate(Sub, [a, b], [y]);
}

/// y = a ⊙ b.
pub fn mul(a: Mat, b: Mat, y: MatMut) {
    evaluate(Mul, [a, b], [y]);
}

/// da = dy ⊙ b, db = dy ⊙ a.
pub fn mul_backward(dy: Mat, a: Mat, b: Mat, da: MatMut, db: MatMut) {
    evaluate(MulBackward, [dy, a, b], [da, db]);
}

/// y = silu(x).
pub fn silu(x: Mat, y: MatMut) {
    evaluate(Silu, [x], [y]);
}

/// dx = dy ⊙ silu'(x).
pub fn silu_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(SiluBackward, [dy, x], [dx]);
}

/// y = a ⊙ silu(z).
pub fn silu_mul(a: Mat, z: Mat, y: MatMut) {
    evaluate(SiluMul, [a, z], [y]);
}

/// da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z).
pub fn silu_mul_backward(dy: Mat, a: Mat, z: Mat, da: MatMut, dz: MatMut) {
    evaluate(SiluMulBackward, [dy, a, z], [da, dz]);
}

/// y = gelu(x).
pub fn gelu(x: Mat, y: MatMut) {
    evaluate(Gelu, [x], [y]);
}

/// dx = dy ⊙ gelu'(x).
pub fn gelu_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(GeluBackward, [dy, x], [dx]);
}

/// y = e^x; its gradient is [`mul`] of dy and y.
pub fn exp(x: Mat, y: MatMut) {
    evaluate(Exp, [x], [y]);
}

/// y = −e^x; its gradient is [`mul`] of dy and y.
pub fn neg_exp(x: Mat, y: MatMut) {
    evaluate(NegExp, [x], [y]);
}

/// y = ln x: −∞ of 0, NaN of what is below.
pub fn log(x: Mat, y: MatMut) {
    evaluate(Log, [x], [y]);
}

/// dx = dy ⊘ x.
pub fn log_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(LogBackward, [dy, x], [dx]);
}

/// y = |x|.
pub fn abs(x: Mat, y: MatMut) {
    evaluate(Abs, [x], [y]);
}

/// dx = dy ⊙ sign(x), 0 where x is 0.
pub fn abs_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(AbsBackward, [dy, x], [dx]);
}

/// y = ln(1 + e^x) − t ⊙ x.
pub fn binary_cross_entropy(x: Mat, t: Mat, y: MatMut) {
    evaluate(BinaryCrossEntropy, [x, t], [y]);
}

/// dx = dy ⊙ (σ(x) − t).
pub fn binary_cross_entropy_backward(dy: Mat, x: Mat, t: Mat, dx: MatMut) {
    evaluate(BinaryCrossEntropyBackward, [dy, x, t], [dx]);
}

/// y = σ(x).
pub fn sigmoid(x: Mat, y: MatMut) {
    evaluate(Sigmoid, [x], [y]);
}

/// dx = dy ⊙ σ(x)·σ(−x).
pub fn sigmoid_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(SigmoidBackward, [dy, x], [dx]);
}

/// y = tanh x.
pub fn tanh(x: Mat, y: MatMut) {
    evaluate(Tanh, [x], [y]);
}

/// dx = dy ⊙ cosh(x)⁻².
pub fn tanh_backward(dy: Mat, x: Mat, dx: MatMut) {
    evaluate(TanhBackward, [dy, x], [dx]);
}

/// y = factor · x.
pub fn scale(x: Mat, y: MatMut, scalars: Scalars) {
    evaluate(Scale(scalars.factor), [x], [y]);
}

/// y = x where it is kept, times the factor, and 0 elsewhere: values are numbered row by row.
pub fn dropout(x: Mat, y: MatMut, scalars: Scalars) {
    let (rows, cols) = (x.rows(), x.cols());
    assert_eq!((y.rows(), y.cols()), (rows, cols), "shape of an output");
    Pieces::new(rows, cols).for_each(|_, rows, from, to| {
        for r in rows {
            let first = (r * cols + from) as u64;
            // SAFETY: each piece has its own rows and columns.
            let y = unsafe { y.part(r, from, to) };
            for ((i, x), y) in (first..).zip(x.part(r, from, to)).zip(y) {
                *y = if scalars.keeps(i) {
                    x * scalars.factor
                } else {
                    0.0
                };
            }
        }
    });
}

/// y = x rounded to bf16, row by row.
///
/// # Panics
/// If the sizes differ.
pub fn to_bf16(x: Mat, y: &mut [bf16]) {
    assert_eq!(x.rows() * x.cols(), y.len(), "shape of an output");
    for (r, row) in y.chunks_mut(x.cols().max(1)).enumerate() {
        for (y, x) in row.iter_mut().zip(x.row(r)) {
            *y = bf16::from_f32(*x);
        }
    }
}

/// y = x.
///
/// # Panics
/// If the sizes differ.
pub fn to_f32(x: &[bf16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "shape of an output");
    for (y, x) in y.iter_mut().zip(x) {
        *y = x.to_f32();
    }
}

/// out\[c\] = Σ_r x\[r, c\], added to `out` where `accumulate`.
pub fn sum_rows(x: Mat, out: &mut [f32], accumulate: bool) {
    assert_eq!(out.len(), x.cols(), "one sum for each column");
    if !accumulate {
        out.fill(0.0);
    }
    let block = reduction_block(x.rows());
    let blocks = x.rows().div_ceil(block);
    if blocks <= 1 {
        return simd::dispatch(AddRows {
            x,
            from: 0,
            to: x.rows(),
            sum: out,
        });
    }
    with_scratch(blocks * x.cols(), |partials| {
        let shared = MatMut::new(partials, blocks, x.cols(), x.cols(), 0);
        for_each_task(x.rows() * x.cols(), blocks, |i| {
            // SAFETY: each task has its own row of partial sums.
            let sum = unsafe { shared.part(i, 0, x.cols()) };
            sum.fill(0.0);
            let (from, to) = (i * block, x.rows().min((i + 1) * block));
            simd::dispatch(AddRows { x, from, to, sum });
        });
        let x = Mat::new(partials, blocks, x.cols(), x.cols(), 0);
        simd::dispatch(AddRows {
            x,
            from: 0,
            to: blocks,
            sum: out,
        });
    });
}

/// sum += Σ over the rows `from..to` of x.
struct AddRows<'a> {
    x: Mat<'a>,
    from: usize,
    to: usize,
    sum: &'a mut [f32],
}

impl WithSimd for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for r in self.from..self.to {
            let row = self.x.row(r);
            for c in (0..row.len()).step_by(S::F32_LANES) {
                let sum = s.add_f32s(load(s, &self.sum[c..]), load(s, &row[c..]));
                store(s, &mut self.sum[c..], sum);
            }
        }
    }
}
