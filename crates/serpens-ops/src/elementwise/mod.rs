//! Functions applied value by value to matrices of equal shape, and a vector repeated for every row.
//!
//! | function         | value                 | gradient                                  |
//! |------------------|-----------------------|-------------------------------------------|
//! | `add`            | y = a + b             | da = db = dy                              |
//! | `mul`            | y = a ⊙ b             | da = dy ⊙ b, db = dy ⊙ a                  |
//! | `silu`           | y = x·σ(x)            | dx = dy ⊙ σ(x)·(1 + x·(1 − σ(x)))         |
//! | `silu_mul`       | y = a ⊙ silu(z)       | da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z) |
//! | `exp`            | y = e^x               | dx = dy ⊙ y                               |
//! | `neg_exp`        | y = −e^x              | dx = dy ⊙ y                               |
//! | `broadcast_rows` | y\[r, c\] = x\[c\]    | dx\[c\] = Σ_r dy\[r, c\]                  |
//! | `cast`           | y = x in another type | dx = dy in the type of x                  |
//!
//! All matrices are (rows, cols) and may be columns of wider rows; they are f32, on a GPU f32 or bf16, all of a call
//! alike. σ is the logistic function. [`cast`] changes the type.

pub mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod views;

use serpens_core::{DType, Device, Result, Shape, Tensor, Var, View, ViewMut, bf16};

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
    record(
        op,
        &[Some(a), Some(b)],
        y,
        || [a.detach(), b.detach()],
        rule,
    )
}

/// a + b, both of one shape.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    binary("add", a, b, views::add, |_, dy, context| {
        context.add(0, dy.clone())?;
        context.add(1, dy)
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
    let keep = {
        let y = y.clone();
        || (keep(x, y), slope)
    };
    record(op, &[Some(x)], y, keep, |(kept, slope), dy, context| {
        let [dx] = context.overwrite([0])?;
        slope(dy.view(), kept.view(), dx)
    })
}

/// silu(x) = x · sigmoid(x).
pub fn silu(x: &Var) -> Result<Var> {
    let keep = |x: &Var, _| x.detach();
    unary("silu", x, views::silu, keep, views::silu_backward)
}

/// e^x, for positive parameters that are trained by their logarithm.
pub fn exp(x: &Var) -> Result<Var> {
    unary("exp", x, views::exp, |_, y| y.into(), views::mul)
}

/// -e^x: A = -exp(A_log).
pub fn neg_exp(x: &Var) -> Result<Var> {
    unary("neg_exp", x, views::neg_exp, |_, y| y.into(), views::mul)
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
    record(
        OP,
        &[Some(x)],
        y,
        || (),
        |(), dy, context| match context.accumulator(0)? {
            Some((dx, accumulate)) => views::sum_rows(dy.view(), dx, accumulate),
            None => Ok(()),
        },
    )
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
    record(
        "cast",
        &[Some(x)],
        y,
        || x.dtype(),
        |dtype, dy, context| context.add(0, converted(&dy.into(), dtype)?),
    )
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
