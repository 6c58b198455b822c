//! The softmax over the last axis, and its logarithm.
//!
//! | function      | value                                        | gradient                          |
//! |---------------|----------------------------------------------|-----------------------------------|
//! | `softmax`     | y\[c\] = exp(x\[c\] − m) / Σ_j exp(x\[j\] − m) | dx = y ⊙ (dy − Σ_j y\[j\]·dy\[j\]) |
//! | `log_softmax` | y\[c\] = x\[c\] − m − ln Σ_j exp(x\[j\] − m)   | dx = dy − e^y · Σ_j dy\[j\]        |
//!
//! with m = max_j x\[j\]; x, y: (rows, cols), f32, on a GPU f32 or bf16, and x may be columns of wider rows. A value of
//! −∞ is a probability of 0; a row of nothing else, of NaN or of +∞ is NaN. For −ln p of a target there is
//! [`crate::cross_entropy`], which keeps no second tensor of this size.

pub mod cpu;
mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::{Device, Error, Result, Tensor, Var};

use crate::record::record;

/// What is computed of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Probabilities.
    Softmax,
    /// Their logarithms.
    LogSoftmax,
}

/// Probabilities in proportion to e^x along the last axis.
///
/// # Shapes
/// (…, cols) → (…, cols)
///
/// # Errors
/// [`Error::Shape`] for a tensor without axes; a type other than f32 and bf16.
pub fn softmax(x: &Var) -> Result<Var> {
    apply("softmax", Form::Softmax, x)
}

/// The logarithms of [`softmax`], exact also where those are too small for a number.
///
/// # Shapes
/// (…, cols) → (…, cols)
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Var) -> Result<Var> {
    apply("log_softmax", Form::LogSoftmax, x)
}

fn apply(op: &'static str, form: Form, x: &Var) -> Result<Var> {
    if x.shape().is_empty() {
        return Err(Error::shape(op, "x", "(…, cols)", x.shape()));
    }
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    match x.device() {
        Device::Cpu => cpu::forward(form, x.mat()?, y.mat_mut()?),
        Device::Cuda(_) => cuda::forward(form, x.view(), y.view_mut()?)?,
    }
    let (out, keep) = (y.clone(), move || (form, y));
    record(op, &[Some(x)], out, keep, |(form, y), dy, context| {
        let [dx] = context.overwrite([0])?;
        match dx.device() {
            Device::Cpu => cpu::backward(form, y.mat()?, dy.mat()?, dx.mat()?),
            Device::Cuda(_) => cuda::backward(form, y.view(), dy.view(), dx)?,
        }
        Ok(())
    })
}
