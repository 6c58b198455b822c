//! Functions applied value by value to matrices of equal shape, and a vector repeated for every row.
//!
//! | function         | value                 | gradient                                  |
//! |------------------|-----------------------|-------------------------------------------|
//! | `add`            | y = a + b             | da = db = dy                              |
//! | `sub`            | y = a − b             | da = dy, db = −dy                         |
//! | `mul`            | y = a ⊙ b             | da = dy ⊙ b, db = dy ⊙ a                  |
//! | `scale`          | y = factor · x        | dx = factor · dy                          |
//! | `silu`           | y = x·σ(x)            | dx = dy ⊙ σ(x)·(1 + x·(1 − σ(x)))         |
//! | `silu_mul`       | y = a ⊙ silu(z)       | da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z) |
//! | `gelu`           | y = x·σ(w)            | dx = dy ⊙ (σ(w) + x·σ(w)·σ(−w)·w')        |
//! | `exp`            | y = e^x               | dx = dy ⊙ y                               |
//! | `neg_exp`        | y = −e^x              | dx = dy ⊙ y                               |
//! | `log`            | y = ln x              | dx = dy ⊘ x                               |
//! | `abs`            | y = \|x\|              | dx = dy ⊙ sign(x), 0 where x is 0         |
//! | `sigmoid`        | y = σ(x)              | dx = dy ⊙ σ(x)·σ(−x)                      |
//! | `tanh`           | y = tanh x            | dx = dy ⊙ cosh(x)⁻²                       |
//! | `binary_cross_entropy` | y = ln(1 + e^x) − t ⊙ x | dx = dy ⊙ (σ(x) − t)              |
//! | `dropout`        | y = keep ⊙ x / (1 − rate) | dx = keep ⊙ dy / (1 − rate)           |
//! | `broadcast_rows` | y\[r, c\] = x\[c\]    | dx\[c\] = Σ_r dy\[r, c\]                  |
//! | `cast`           | y = x in another type | dx = dy in the type of x                  |
//!
//! All matrices are (rows, cols) and may be columns of wider rows; they are f32, on a GPU f32 or bf16, all of a call
//! alike. σ is the logistic function; w = 2√(2/π)·(x + 0.044715 x³), with which x·σ(w) is GPT-2's approximation of x
//! times the normal distribution function, ½x·(1 + tanh(w/2)). [`cast`] changes the type; the targets t of
//! [`binary_cross_entropy`] are f32 whatever x is. Errors are shapes that differ, and types other than these.

pub mod cpu;
pub(crate) mod cuda;
mod scalars;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod views;

pub use scalars::Scalars;
use serpens_core::{DType, Device, Error, Result, Shape, Tensor, Var, View, ViewMut, bf16};

use crate::check;
use crate::record::{Rule, record};

fn binary(
    op: &'static str,
    a: &Var,
    b: &Var,
    forward: fn(View<'_>, View<'_>, ViewMut<'_>) -> Result<()>,
    rule: Rule<[Var; 2]>,
) -> Result<Var> {
    check::shape(op, "the second operand", &a.shape(), b)?;
    let mut y = Tensor::empty(a.shape(), a.dtype(), a.device())?;
    forward(a.view(), b.view(), y.view_mut()?)?;
    let keep = || [a.detach(), b.detach()];
    record(op, &[Some(a), Some(b)], y, keep, rule)
}

/// a + b, both of one shape.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    binary("add", a, b, views::add, |_, dy, context| {
        context.add(0, dy.clone())?;
        context.add(1, dy)
    })
}

/// a − b, both of one shape.
pub fn sub(a: &Var, b: &Var) -> Result<Var> {
    binary("sub", a, b, views::sub, |_, dy, context| {
        let [db] = context.overwrite([1])?;
        views::scale(dy.view(), db, Scalars::factor(-1.0))?;
        context.add(0, dy)
    })
}

/// a ⊙ b, both of one shape.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    binary("mul", a, b, views::mul, |[a, b], dy, context| {
        let [da, db] = context.overwrite([0, 1])?;
        views::mul_backward(dy.view(), a.view(), b.view(), da, db)
    })
}

/// a ⊙ silu(z), both of one shape: the gate of the Mamba block.
pub fn silu_mul(a: &Var, z: &Var) -> Result<Var> {
    binary("silu_mul", a, z, views::silu_mul, |[a, z], dy, context| {
        let [da, dz] = context.overwrite([0, 1])?;
        views::silu_mul_backward(dy.view(), a.view(), z.view(), da, dz)
    })
}

/// −t·ln p − (1 − t)·ln(1 − p) of each value, p = σ(x) the probability and t in 0 ≤ t ≤ 1 the target, which is not
/// checked: a label, or less than certain of it. However large x is, nothing overflows; where it is infinite, y is ∞ or
/// NaN.
///
/// # Shapes
/// x and the targets of one shape, targets f32; they get no gradient
pub fn binary_cross_entropy(x: &Var, targets: &Tensor) -> Result<Var> {
    let (op, forward) = ("binary_cross_entropy", views::binary_cross_entropy);
    let targets = targets.clone().into();
    binary(op, x, &targets, forward, |[x, t], dy, context| {
        let [dx] = context.overwrite([0])?;
        views::binary_cross_entropy_backward(dy.view(), x.view(), t.view(), dx)
    })
}

/// A function of one operand, whose gradient comes from dy and what is kept: x or y.
fn unary(
    op: &'static str,
    x: &Var,
    forward: fn(View<'_>, ViewMut<'_>) -> Result<()>,
    keep: fn(x: &Var, y: Tensor) -> Var,
    slope: fn(View<'_>, View<'_>, ViewMut<'_>) -> Result<()>,
) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    forward(x.view(), y.view_mut()?)?;
    let (out, keep) = (y.clone(), || (keep(x, y), slope));
    record(op, &[Some(x)], out, keep, |(kept, slope), dy, context| {
        let [dx] = context.overwrite([0])?;
        slope(dy.view(), kept.view(), dx)
    })
}

fn keep_x(x: &Var, _y: Tensor) -> Var {
    x.detach()
}

/// silu(x) = x · sigmoid(x).
pub fn silu(x: &Var) -> Result<Var> {
    unary("silu", x, views::silu, keep_x, views::silu_backward)
}

/// GELU(x), by the hyperbolic tangent: see the head of this module.
pub fn gelu(x: &Var) -> Result<Var> {
    unary("gelu", x, views::gelu, keep_x, views::gelu_backward)
}

/// ln x: −∞ of 0, NaN of what is below.
pub fn log(x: &Var) -> Result<Var> {
    unary("log", x, views::log, keep_x, views::log_backward)
}

/// |x|.
pub fn abs(x: &Var) -> Result<Var> {
    unary("abs", x, views::abs, keep_x, views::abs_backward)
}

/// σ(x) = 1 / (1 + e^−x).
pub fn sigmoid(x: &Var) -> Result<Var> {
    let slope = views::sigmoid_backward;
    unary("sigmoid", x, views::sigmoid, keep_x, slope)
}

/// The hyperbolic tangent.
pub fn tanh(x: &Var) -> Result<Var> {
    unary("tanh", x, views::tanh, keep_x, views::tanh_backward)
}

/// e^x, for positive parameters that are trained by their logarithm.
pub fn exp(x: &Var) -> Result<Var> {
    unary("exp", x, views::exp, |_, y| y.into(), views::mul)
}

/// -e^x: A = -exp(A_log).
pub fn neg_exp(x: &Var) -> Result<Var> {
    unary("neg_exp", x, views::neg_exp, |_, y| y.into(), views::mul)
}

/// A function that multiplies each value by what does not depend on it, and so its gradient by the same.
fn scaled(
    op: &'static str,
    x: &Var,
    scalars: Scalars,
    function: fn(View<'_>, ViewMut<'_>, Scalars) -> Result<()>,
) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    function(x.view(), y.view_mut()?, scalars)?;
    let keep = || (function, scalars);
    record(op, &[Some(x)], y, keep, |(f, scalars), dy, context| {
        let [dx] = context.overwrite([0])?;
        f(dy.view(), dx, scalars)
    })
}

/// factor · x.
pub fn scale(x: &Var, factor: f32) -> Result<Var> {
    scaled("scale", x, Scalars::factor(factor), views::scale)
}

/// Values zero with a probability of `rate`, each by itself, and the others x / (1 − rate): while training. Which ones
/// is a function of the seed and of their position alone, on every device, and computed again for the gradient; each
/// use and each step wants a seed of its own. Without a seed, as for evaluation, x itself.
///
/// # Errors
/// [`Error::Value`] for a rate outside 0 ≤ rate < 1.
pub fn dropout(x: &Var, rate: f32, seed: Option<u64>) -> Result<Var> {
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::Value {
            op: "dropout",
            what: "the rate",
            expected: "at least 0 and below 1",
            got: rate.into(),
        });
    }
    match seed {
        Some(seed) => scaled("dropout", x, Scalars::dropout(rate, seed), views::dropout),
        None => Ok(x.clone()),
    }
}

/// A vector repeated for every row of `shape`: (width) → (…, width).
pub fn broadcast_rows(x: &Var, shape: Shape) -> Result<Var> {
    const OP: &str = "broadcast_rows";
    check::shape(OP, "x", &[shape.cols()], x)?;
    let mut y = Tensor::empty(shape, x.dtype(), x.device())?;
    match x.device() {
        Device::Cpu => {
            let values = check::values(x)?;
            for row in y.make_mut::<f32>()?.chunks_exact_mut(shape.cols().max(1)) {
                row.copy_from_slice(values);
            }
        }
        Device::Cuda(_) => cuda::convert(x.view(), y.view_mut()?)?,
    }
    // dx = Σ_rows dy
    let keep = || ();
    record(OP, &[Some(x)], y, keep, |(), dy, context| {
        let Some((dx, accumulate)) = context.accumulator(0)? else {
            return Ok(());
        };
        views::sum_rows(dy.view(), dx, accumulate)
    })
}

/// The values of x as f32 or bf16, rounded to the nearest, of two the even one.
///
/// # Errors
/// Other types; on the processor, bf16 values that are a range of columns.
pub fn cast(x: &Var, dtype: DType) -> Result<Var> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = converted(x, dtype)?;
    let keep = || x.dtype();
    record("cast", &[Some(x)], y, keep, |dtype, dy, context| {
        context.add(0, converted(&dy.into(), dtype)?)
    })
}

fn converted(x: &Var, dtype: DType) -> Result<Tensor> {
    check::float("cast", "x", x.dtype())?;
    check::float("cast", "the result", dtype)?;
    let mut y = Tensor::empty(x.shape(), dtype, x.device())?;
    match (x.device(), dtype) {
        (Device::Cuda(_), _) => cuda::convert(x.view(), y.view_mut()?)?,
        (Device::Cpu, DType::BF16) => cpu::to_bf16(x.mat()?, y.make_mut::<bf16>()?),
        (Device::Cpu, _) => cpu::to_f32(x.tensor()?.as_slice::<bf16>()?, y.make_mut()?),
    }
    Ok(y)
}
