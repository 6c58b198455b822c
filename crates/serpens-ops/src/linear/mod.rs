//! The linear map y = x Wᵀ + b and its gradients.
//!
//! x: (rows, d_in), W: (d_out, d_in) row by row as checkpoints hold it, b: (d_out), y: (rows, d_out), all f32; x, y and
//! their gradients may be columns of wider rows. dx = dy W, dW = dyᵀ x, db = Σ_rows dy.
//!
//! On the processor W may be bf16 where no gradient is asked for: its values are widened, which is exact, and all else
//! is as in f32. On a GPU x and W may both be bf16 (W then being the shadow of an f32 parameter); y and dx are of x's
//! type, sums and dW, b and db are f32.

pub mod cpu;
pub mod cuda;
mod operands;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{BackwardContext, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var, View, ViewMut};

use crate::quantized_linear::Packed;
use crate::record::record;
use crate::{check, elementwise};
pub use operands::Held;

const OP: &str = "linear";

/// How a GPU multiplies f32 matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductPrecision {
    /// In f32.
    Full,
    /// With operands rounded to TF32 (11 bits of mantissa), on the matrix units; sums stay f32.
    Tf32,
}

/// y = x Wᵀ + b. The products of the gradients are made as those of y.
///
/// # Shapes
/// x (…, inputs), weight (outputs, inputs), bias (outputs) → (…, outputs)
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says.
pub fn linear(
    x: &Var,
    weight: &Var,
    bias: Option<&Var>,
    products: ProductPrecision,
) -> Result<Var> {
    let [outputs, inputs] = weight.shape().axes(OP, "weight", "(outputs, inputs)")?;
    if let Some(bias) = bias {
        check::shape(OP, "bias", &[outputs], bias)?;
    }
    if x.shape().is_empty() || x.shape().cols() != inputs {
        return Err(Error::shape(OP, "x", format!("(…, {inputs})"), x.shape()));
    }
    let (device, operands) = (weight.device(), [Some(x), Some(weight), bias]);
    if device == Device::Cpu && weight.dtype() == DType::BF16 && tracked(&operands) {
        return Err(Error::NoGradient {
            op: "linear with a weight in bf16 on the processor",
        });
    }
    let mut y = Tensor::empty(x.shape().with_cols(outputs), x.dtype(), device)?;
    match device {
        Device::Cpu => {
            let bias = bias.map(check::values).transpose()?;
            let weight = Weight::Plain(weight.view());
            cpu::step(x.mat()?, weight, bias, y.mat_mut()?, false)?;
        }
        Device::Cuda(_) => {
            let bias = bias.map(Var::view);
            cuda::forward(x.view(), weight.view(), bias, y.view_mut()?, products)?;
        }
    }
    let keep = || (x.detach(), weight.detach(), products);
    record(OP, &operands, y, keep, backward)
}

/// dx = dy W, dW = dyᵀ x, db = Σ_rows dy; all added in place to gradients that are there.
fn backward(
    (x, weight, products): (Var, Var, ProductPrecision),
    dy: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let on_cpu = dy.device() == Device::Cpu;
    if let Some((dx, accumulate)) = context.accumulator(0)? {
        match on_cpu {
            true => cpu::backward_input(dy.mat()?, check::values(&weight)?, dx.mat()?, accumulate),
            false => cuda::backward_input(dy.view(), weight.view(), dx, accumulate, products)?,
        }
    }
    if let Some((dw, accumulate)) = context.accumulator(1)? {
        match on_cpu {
            true => cpu::backward_weight(dy.mat()?, x.mat()?, dw.slice()?, accumulate),
            false => cuda::backward_weight(dy.view(), x.view(), dw, accumulate, products)?,
        }
    }
    match context.accumulator(2)? {
        Some((db, accumulate)) => elementwise::views::sum_rows(dy.view(), db, accumulate),
        None => Ok(()),
    }
}

/// A matrix (outputs, inputs) as [`step`] reads it.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// In f32 or bf16.
    Plain(View<'a>),
    /// In blocks of few bits.
    Packed(&'a Packed),
}

impl Weight<'_> {
    /// (outputs, inputs).
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Weight::Plain(w) => [w.rows(), w.cols()],
            Weight::Packed(w) => [w.rows(), w.cols()],
        }
    }
}

/// Root mean square normalisation of what goes into a product: norm(x) = x / √(mean x² + eps) ⊙ weight.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// (inputs), f32.
    pub weight: View<'a>,
    /// What is added to the mean square.
    pub eps: f32,
}

/// y = W norm(x) + b for one token of every slot, added to what y holds where `accumulate`; norm(x) = x without a norm.
/// Nothing is recorded, and on the processor no tensor is made.
///
/// # Shapes
/// x (slots, inputs), W (outputs, inputs), bias (outputs), y (slots, outputs); all f32 on the processor but W
///
/// # On a GPU
/// What stays the same from step to step, here W, b and the norm's weight, may be read before what was queued earlier
/// has ended. Where that writes to it, [`Device::synchronize`] comes between.
///
/// # Errors
/// Shapes, types or devices that do not fit.
pub fn step(
    x: View<'_>,
    norm: Option<Norm<'_>>,
    w: Weight<'_>,
    bias: Option<View<'_>>,
    y: ViewMut<'_>,
    accumulate: bool,
) -> Result<()> {
    check_step(&x, &norm, &w, &bias, &y.as_view())?;
    match y.device() {
        Device::Cpu => {
            let bias = bias.map(|bias| Ok(bias.mat()?.row(0))).transpose()?;
            let Some(norm) = norm else {
                return cpu::step(x.mat()?, w, bias, y.mat()?, accumulate);
            };
            let (x, weight) = (x.mat()?, norm.weight.mat()?.row(0));
            cpu::normalised(x, weight, norm.eps, |x| {
                cpu::step(x, w, bias, y.mat()?, accumulate)
            })
        }
        Device::Cuda(_) => cuda::step(x, norm, w, bias, y, accumulate),
    }
}

/// Fails unless the operands of a [`step`] have shapes that fit, and a matrix that can be multiplied with.
pub(crate) fn check_step(
    x: &View<'_>,
    norm: &Option<Norm<'_>>,
    w: &Weight<'_>,
    bias: &Option<View<'_>>,
    y: &View<'_>,
) -> Result<()> {
    let [outputs, inputs] = w.shape();
    check::count(OP, "columns of x", inputs, x.cols())?;
    check::count(OP, "columns of y", outputs, y.cols())?;
    check::count(OP, "rows of y", x.rows(), y.rows())?;
    if let Weight::Plain(w) = w {
        check::float(OP, "the weight", w.dtype())?;
    }
    if let Some(bias) = bias {
        check::count(OP, "values of the bias", outputs, bias.cols())?;
    }
    match norm {
        Some(norm) => check::count(OP, "values of the norm", inputs, norm.weight.cols()),
        None => Ok(()),
    }
}
