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
//! | `sum_rows`   | out\[c\] = Σ_r x\[r, c\] | dx\[r, c\] = dout\[c\]                                            |
//!
//! All matrices are f32 (rows, cols) and may be columns of wider rows. σ is the logistic function.

pub mod cpu;
pub mod reference;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, MatMut, Result, Shape, Tensor, Var};

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
    forward: impl FnOnce(&Var, &Var, MatMut<'_>) -> Result<()>,
    rule: Binary,
) -> Result<Var> {
    check::shape(op, "the second operand", &a.shape(), b)?;
    let mut y = Tensor::empty(a.shape(), DType::F32, Device::Cpu)?;
    forward(a, b, y.mat_mut()?)?;
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
    binary(
        "add",
        a,
        b,
        |a, b, y| {
            cpu::add(a.mat()?, b.mat()?, y);
            Ok(())
        },
        |dy, _, _, context| {
            context.add(0, dy.clone())?;
            context.add(1, dy.clone())
        },
    )
}

/// a ⊙ b, both of one shape.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    binary(
        "mul",
        a,
        b,
        |a, b, y| {
            cpu::mul(a.mat()?, b.mat()?, y);
            Ok(())
        },
        |dy, a, b, context| {
            let [da, db] = context.overwrite([0, 1])?;
            cpu::mul_backward(dy.mat()?, a.mat()?, b.mat()?, da.mat()?, db.mat()?);
            Ok(())
        },
    )
}

/// a ⊙ silu(z), both of one shape: the gate of the Mamba block.
pub fn silu_mul(a: &Var, z: &Var) -> Result<Var> {
    binary(
        "silu_mul",
        a,
        z,
        |a, z, y| {
            cpu::silu_mul(a.mat()?, z.mat()?, y);
            Ok(())
        },
        |dy, a, z, context| {
            let [da, dz] = context.overwrite([0, 1])?;
            cpu::silu_mul_backward(dy.mat()?, a.mat()?, z.mat()?, da.mat()?, dz.mat()?);
            Ok(())
        },
    )
}

/// What a function of one operand keeps, and how its gradient comes from it.
struct UnaryBackward {
    kept: Var,
    rule: fn(&Tensor, &Var, MatMut<'_>) -> Result<()>,
}

impl Backward for UnaryBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        let [dx] = context.overwrite([0])?;
        (self.rule)(&dy, &self.kept, dx.mat()?)
    }
}

/// silu(x) = x · sigmoid(x).
pub fn silu(x: &Var) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), DType::F32, Device::Cpu)?;
    cpu::silu(x.mat()?, y.mat_mut()?);
    let operation = tracked(&[Some(x)]).then(|| {
        Box::new(UnaryBackward {
            kept: x.detach(),
            rule: |dy, x, dx| {
                cpu::silu_backward(dy.mat()?, x.mat()?, dx);
                Ok(())
            },
        }) as Box<dyn Backward>
    });
    let [y] = record("silu", &[Some(x)], [y], operation)?;
    Ok(y)
}

/// e^x, for positive parameters that are trained by their logarithm.
pub fn exp(x: &Var) -> Result<Var> {
    exponential("exp", x, cpu::exp)
}

/// -e^x: A = -exp(A_log).
pub fn neg_exp(x: &Var) -> Result<Var> {
    exponential("neg_exp", x, cpu::neg_exp)
}

/// Both have the derivative y.
fn exponential(
    op: &'static str,
    x: &Var,
    forward: fn(serpens_core::Mat<'_>, MatMut<'_>),
) -> Result<Var> {
    let mut y = Tensor::empty(x.shape(), DType::F32, Device::Cpu)?;
    forward(x.mat()?, y.mat_mut()?);
    let operation = tracked(&[Some(x)]).then(|| {
        Box::new(UnaryBackward {
            kept: y.clone().into(),
            rule: |dy, y, dx| {
                cpu::mul(dy.mat()?, y.mat()?, dx);
                Ok(())
            },
        }) as Box<dyn Backward>
    });
    let [y] = record(op, &[Some(x)], [y], operation)?;
    Ok(y)
}

/// A vector repeated for every row of `shape`: (width) → (…, width).
pub fn broadcast_rows(x: &Var, shape: Shape) -> Result<Var> {
    const OP: &str = "broadcast_rows";
    check::shape(OP, "x", &[shape.cols()], x)?;
    let mut y = Tensor::empty(shape, DType::F32, Device::Cpu)?;
    let row = check::values(x)?;
    for part in y.make_mut::<f32>()?.chunks_exact_mut(shape.cols().max(1)) {
        part.copy_from_slice(row);
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
        if let Some((dx, accumulate)) = context.accumulator(0)? {
            cpu::sum_rows(dy.mat()?, dx.slice()?, accumulate);
        }
        Ok(())
    }
}
