//! The linear map y = x Wᵀ + b with a matrix W of few bits for each value, in [`Blocks`]: 2 to 4 times fewer bytes than
//! bf16 to read for each token.
//!
//! x: (…, inputs) and y: (…, outputs) in f32, on a GPU also in bf16; W: (outputs, inputs) as [`Packed`], b: (outputs)
//! in f32. W is not learnt, so there is no gradient.
//!
//! x becomes integers of eight bits, for every 32 of a row: d_x = max|x| / 127 and q_x = x / d_x, rounded to the
//! nearest, halves to even. For every block of W (of Q4_K and Q6_K every sub-block) the sum of the
//! integer products is exact, and added to the row's sum in f32 in one fixed order: y = Σ d_w d_x Σ q_w q_x. So a row
//! of y has the same bits on every instruction set and any number of threads, and among any number of other rows. The
//! error against the exact product with the values that were quantised is at most twice that of dequantise-then-f32,
//! for x whose largest values do not stand out from their 32 more than those of W do.
//!
//! A NaN or infinity in a row of x makes that row of y NaN, and no other. 32 values of x that are all below 4e-37 count
//! as zeros.

pub mod cpu;
pub(crate) mod cuda;
mod packed;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use serpens_core::tape::tracked;
use serpens_core::{Device, Error, Result, Tensor, Var};

use crate::check;
use crate::linear::{self, Weight};
pub use packed::Packed;

const OP: &str = "quantized_linear";

/// A kind of blocks, the layout of GGUF's of the same name: d and dmin in f16, 4 bits two values to a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names that they have everywhere")]
pub enum Blocks {
    /// 32 values of eight bits: x = d q.
    Q8_0,
    /// 32 values of four bits: x = d (q - 8).
    Q4_0,
    /// 256 values of four bits, with eight scales and minima of six bits: x = d scale q - dmin min.
    Q4_K,
    /// 256 values of six bits, with sixteen scales of eight bits: x = d scale (q - 32).
    Q6_K,
}

impl Blocks {
    /// Every kind.
    pub const ALL: [Blocks; 4] = [Blocks::Q8_0, Blocks::Q4_0, Blocks::Q4_K, Blocks::Q6_K];

    /// Values of a block.
    pub fn values(self) -> usize {
        match self {
            Blocks::Q8_0 | Blocks::Q4_0 => 32,
            Blocks::Q4_K | Blocks::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Blocks::Q8_0 => 34,
            Blocks::Q4_0 => 18,
            Blocks::Q4_K => 144,
            Blocks::Q6_K => 210,
        }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// y = x Wᵀ + b.
///
/// # Shapes
/// x (…, inputs), weight (outputs, inputs), bias (outputs) → (…, outputs)
///
/// # Errors
/// Shapes that do not fit; operands of other types, or on other devices; [`Error::NoGradient`] where a tape tracks x or
/// the bias.
pub fn quantized_linear(x: &Var, weight: &Packed, bias: Option<&Var>) -> Result<Var> {
    if tracked(&[Some(x), bias]) {
        return Err(Error::NoGradient { op: OP });
    }
    let (outputs, inputs) = (weight.rows(), weight.cols());
    if let Some(bias) = bias {
        check::shape(OP, "bias", &[outputs], bias)?;
    }
    if x.shape().is_empty() || x.shape().cols() != inputs {
        return Err(Error::shape(OP, "x", format!("(…, {inputs})"), x.shape()));
    }
    let device = weight.device();
    check::device(OP, "x", device, x.device())?;
    let mut y = Tensor::empty(x.shape().with_cols(outputs), x.dtype(), device)?;
    match device {
        Device::Cpu => {
            let bias = bias.map(check::values).transpose()?;
            cpu::forward(x.mat()?, weight, bias, y.mat_mut()?);
        }
        Device::Cuda(_) => {
            let (w, bias) = (Weight::Packed(weight), bias.map(Var::view));
            linear::cuda::step(x.view(), None, w, bias, y.view_mut()?, false)?;
        }
    }
    Ok(y.into())
}
