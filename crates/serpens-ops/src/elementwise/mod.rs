//! Functions applied value by value to matrices of equal shape, and the sum over rows.
//!
//! | function     | value                    | gradient                                                          |
//! |--------------|--------------------------|-------------------------------------------------------------------|
//! | `add`        | y = a + b                | da = db = dy                                                      |
//! | `add_scaled` | y ← y + k·x              |                                                                   |
//! | `scale`      | y = k·x                  | dx = k·dy                                                         |
//! | `mul`        | y = a ⊙ b                | da = dy ⊙ b, db = dy ⊙ a                                          |
//! | `silu`       | y = x·σ(x)               | dx = dy ⊙ σ(x)·(1 + x·(1 − σ(x)))                                 |
//! | `silu_mul`   | y = a ⊙ silu(z)          | da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z)                         |
//! | `exp`        | y = e^x                  | dx = dy ⊙ y                                                       |
//! | `neg_exp`    | y = −e^x                 | dx = dy ⊙ y                                                       |
//! | `cast`       | y = x in another type    | dx = dy in the type of x                                          |
//! | `sum_rows`   | out\[c\] = Σ_r x\[r, c\] | dx\[r, c\] = dout\[c\]                                            |
//!
//! All matrices are (rows, cols) and may be columns of wider rows; they are f32, on a GPU f32 or bf16, all of a call alike. σ is
//! the logistic function. [`cast`] changes the type.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;
mod views;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Result, Shape, Tensor, Var, View, ViewMut, bf16};

use crate::check;

/// A backward pass of a function of two operands: reads dy and both operands.
type Binary = fn(&Tensor, &Var, &Var, &mut BackwardContext<'_, '_>) -> Result<()>;

struct BinaryBackward {
    a: Var,
    b: Var,
    rule: Binary,
}

impl Backward for BinaryBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        match context.take_output(0) {
            Some(dy) => (self.rule)(&dy, &self.a, &self.b, context),
            None => Ok(()),
        }
    }
}

fn binary(
    op: &'static str,
    a: &Var,
    b: &Var,
    forward: fn(View<'_>, View<'_>, ViewMut<'_>) -> Result<()>,
    rule: Binary,
) -> Result<Var> {
    check::shape(op, "the second operand", &a.shape(), b)?;
    let mut y = Tensor::empty(a.shape(), a.dtype(), a.device())?;
    forward(a.view(), b.view(), y.view_mut()?)?;
    let operands = [Some(a), Some(b)];
    let operation = tracked(&operands).then(|| {
        let (a, b) = (a.detach(), b.detach());
        Box::new(BinaryBackward { a, b, rule }) as Box<dyn Backward>
    });
    let [y] = record(op, &operands, [y], operation)?;
    Ok(y)
}

/// a + b, both of one shape.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    binary("add", a, b, views::add, |dy, _, _, context| {
        context.add(0, dy.clone())?;
        context.add(1, dy.clone())
    })
}

/// a ⊙ b, both of one shape.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    binary("mul", a, b, views::mul, |dy, a, b, context| {
        let [da, db] = context.overwrite([0, 1])?;
        views::mul_backward(dy.view(), a.view(), b.view(), da, db)
    })
}

/// a ⊙ silu(z), both of one shape: the gate of the Mamba block.
pub fn silu_mul(a: &Var, z: &Var) -> Result<Var> {
    binary("silu_mul", a, z, views::silu_mul, |dy, a, z, context| {
        let [da, dz] = context.overwrite([0, 1])?;
        views::silu_mul_backward(dy.view(), a.view(), z.view(), da, dz)
    })
}

/// What a function of one operand keeps, and how its gradient comes from dy and that.
struct UnaryBackward {
    kept: Var,
    rule: fn(View<'_>, View<'_>, ViewMut<'_>) -> Result<()>,
}

impl Backward for UnaryBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        let [dx] = context.overwrite([0])?;
        (self.rule)(dy.view(), self.kept.view(), dx)
    }
}

/// silu(x) = x · sigmoid(x).
pub fn silu(x: &Var) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    views::silu(x.view(), y.view_mut()?)?;
    let operation = tracked(&[Some(x)]).then(|| {
        Box::new(UnaryBackward {
            kept: x.detach(),
            rule: views::silu_backward,
        }) as Box<dyn Backward>
    });
    let [y] = record("silu", &[Some(x)], [y], operation)?;
    Ok(y)
}

/// e^x, for positive parameters that are trained by their logarithm.
pub fn exp(x: &Var) -> Result<Var> {
    exponential("exp", x, views::exp)
}

/// -e^x: A = -exp(A_log).
pub fn neg_exp(x: &Var) -> Result<Var> {
    exponential("neg_exp", x, views::neg_exp)
}

/// Both have the derivative y.
fn exponential(
    op: &'static str,
    x: &Var,
    forward: fn(View<'_>, ViewMut<'_>) -> Result<()>,
) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    forward(x.view(), y.view_mut()?)?;
    let operation = tracked(&[Some(x)]).then(|| {
        Box::new(UnaryBackward {
            kept: y.clone().into(),
            rule: views::mul,
        }) as Box<dyn Backward>
    });
    let [y] = record(op, &[Some(x)], [y], operation)?;
    Ok(y)
}

/// A vector repeated for every row of `shape`: (width) → (…, width).
pub fn broadcast_rows(x: &Var, shape: Shape) -> Result<Var> {
    const OP: &str = "broadcast_rows";
    check::shape(OP, "x", &[shape.cols()], x)?;
    let mut y = Tensor::empty(shape, x.dtype(), x.device())?;
    match x.device() {
        Device::Cpu => {
            let row = check::values(x)?;
            for part in y.make_mut::<f32>()?.chunks_exact_mut(shape.cols().max(1)) {
                part.copy_from_slice(row);
            }
        }
        Device::Cuda(_) => cuda::convert(x.view(), y.view_mut()?)?,
    }
    let operation = tracked(&[Some(x)]).then(|| Box::new(BroadcastBackward) as Box<dyn Backward>);
    let [y] = record(OP, &[Some(x)], [y], operation)?;
    Ok(y)
}

/// dx = Σ_rows dy.
struct BroadcastBackward;

impl Backward for BroadcastBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        match context.accumulator(0)? {
            Some((dx, accumulate)) => views::sum_rows(dy.view(), dx, accumulate),
            None => Ok(()),
        }
    }
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
    let operation = tracked(&[Some(x)]).then(|| {
        let dtype = x.dtype();
        Box::new(CastBackward { dtype }) as Box<dyn Backward>
    });
    let [y] = record("cast", &[Some(x)], [y], operation)?;
    Ok(y)
}

/// dx = dy in the type of x.
struct CastBackward {
    dtype: DType,
}

impl Backward for CastBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        match context.take_output(0) {
            Some(dy) => context.add(0, converted(&dy.into(), self.dtype)?),
            None => Ok(()),
        }
    }
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
