//! Sums and means over everything or over the last axis, and the mean squared error.
//!
//! | function             | value                      | gradient                           |
//! |----------------------|----------------------------|------------------------------------|
//! | `sum`                | y = Σ x                    | dx = dy                            |
//! | `mean`               | y = Σ x / count            | dx = dy / count                    |
//! | `sum_last`           | y\[r\] = Σ_c x\[r, c\]     | dx\[r, c\] = dy\[r\]               |
//! | `mean_last`          | y\[r\] = Σ_c x\[r, c\] / cols | dx\[r, c\] = dy\[r\] / cols     |
//! | `mean_squared_error` | y = Σ (a − b)² / count     | da = 2 (a − b) · dy / count, db = −da |
//!
//! Operands are f32, on a GPU f32 or bf16, and may be columns of wider rows; results are f32, gradients of the
//! operands' types. The mean of no values is 0. Sums are f32 inside of blocks that depend on the shape alone, and f64
//! over these, in order.

pub mod cpu;
mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::{DType, Device, Error, Result, Shape, Tensor, Var};

use crate::check;
use crate::record::record;

/// Σ x over all values.
///
/// # Shapes
/// (…) → (1) of f32
///
/// # Errors
/// A type other than f32 and bf16.
pub fn sum(x: &Var) -> Result<Var> {
    scaled_sum("sum", x, 1.into(), 1.0)
}

/// The mean of all values.
///
/// # Shapes
/// (…) → (1) of f32
///
/// # Errors
/// As [`sum`].
pub fn mean(x: &Var) -> Result<Var> {
    scaled_sum("mean", x, 1.into(), share_of(x.shape().count()))
}

/// The sum over the last axis.
///
/// # Shapes
/// (…, cols) → (…) of f32
///
/// # Errors
/// As [`sum`]; [`Error::Shape`] for a tensor without axes.
pub fn sum_last(x: &Var) -> Result<Var> {
    scaled_sum("sum_last", x, without_last("sum_last", x)?, 1.0)
}

/// The mean over the last axis.
///
/// # Shapes
/// (…, cols) → (…) of f32
///
/// # Errors
/// As [`sum_last`].
pub fn mean_last(x: &Var) -> Result<Var> {
    let shape = without_last("mean_last", x)?;
    scaled_sum("mean_last", x, shape, share_of(x.shape().cols()))
}

fn without_last(op: &'static str, x: &Var) -> Result<Shape> {
    let shape = x.shape();
    let others = shape.split_last().map(|(_, others)| Shape::new(others));
    others.ok_or_else(|| Error::shape(op, "x", "(…, cols)", shape))
}

fn share_of(count: usize) -> f32 {
    (1.0 / count.max(1) as f64) as f32
}

/// factor · Σ x: over everything where that is one value, over each row otherwise.
fn scaled_sum(op: &'static str, x: &Var, shape: Shape, factor: f32) -> Result<Var> {
    let mut y = Tensor::empty(shape, DType::F32, x.device())?;
    match x.device() {
        Device::Cpu => cpu::sum(x.mat()?, factor, y.make_mut()?),
        Device::Cuda(_) => cuda::sum(op, [x.view()], factor, y.view_mut()?)?,
    }
    let keep = || factor;
    record(op, &[Some(x)], y, keep, |factor, dy, context| {
        let [dx] = context.overwrite([0])?;
        match dx.device() {
            Device::Cpu => cpu::spread(dy.as_slice()?, factor, dx.mat()?),
            Device::Cuda(_) => cuda::spread(dy.view(), factor, dx)?,
        }
        Ok(())
    })
}

/// The mean of (a − b)² over all values.
///
/// # Shapes
/// a, b (…) → (1) of f32
///
/// # Errors
/// Shapes or types that differ; types other than f32 and bf16.
pub fn mean_squared_error(a: &Var, b: &Var) -> Result<Var> {
    const OP: &str = "mean_squared_error";
    check::shape(OP, "the second operand", &a.shape(), b)?;
    check::device(OP, "the second operand", a.device(), b.device())?;
    let factor = share_of(a.shape().count());
    let mut y = Tensor::empty(1, DType::F32, a.device())?;
    match a.device() {
        Device::Cpu => y.make_mut()?[0] = cpu::squared_error(a.mat()?, b.mat()?, factor),
        Device::Cuda(_) => cuda::sum(OP, [a.view(), b.view()], factor, y.view_mut()?)?,
    }
    let (operands, keep) = ([Some(a), Some(b)], || (a.detach(), b.detach(), factor));
    record(OP, &operands, y, keep, |(a, b, factor), dy, context| {
        let [da, db] = context.overwrite([0, 1])?;
        match da.device() {
            Device::Cpu => {
                let slope = 2.0 * factor * dy.as_slice::<f32>()?[0];
                cpu::squared_error_backward(a.mat()?, b.mat()?, slope, da.mat()?, db.mat()?);
            }
            Device::Cuda(_) => {
                cuda::squared_error_backward(dy.view(), [a.view(), b.view()], factor, [da, db])?;
            }
        }
        Ok(())
    })
}
