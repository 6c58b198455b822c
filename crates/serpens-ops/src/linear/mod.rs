//! The linear map y = x Wᵀ + b and its gradients.
//!
//! x: (rows, d_in), W: (d_out, d_in) row by row as checkpoints hold it, b: (d_out), y: (rows, d_out), all f32; x, y and their
//! gradients may be columns of wider rows. dx = dy W, dW = dyᵀ x, db = Σ_rows dy.

pub mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Error, Result, Tensor, Var};

use crate::check;

const OP: &str = "linear";

/// y = x Wᵀ + b.
///
/// # Shapes
/// x (…, inputs), weight (outputs, inputs), bias (outputs) → (…, outputs)
///
/// # Errors
/// Shapes that do not fit; operands that are not f32.
pub fn linear(x: &Var, weight: &Var, bias: Option<&Var>) -> Result<Var> {
    let [outputs, inputs] = check::axes(OP, "weight", "(outputs, inputs)", weight)?;
    check::optional(OP, "bias", &[outputs], bias)?;
    if x.shape().is_empty() || x.shape().cols() != inputs {
        return Err(Error::shape(OP, "x", format!("(…, {inputs})"), x.shape()));
    }
    let device = weight.tensor()?.device();
    let mut y = Tensor::empty(x.shape().with_cols(outputs), DType::F32, device)?;
    let bias_values = bias.map(check::values).transpose()?;
    cpu::forward(x.mat()?, check::values(weight)?, bias_values, y.mat_mut()?);
    let operands = [Some(x), Some(weight), bias];
    let operation = tracked(&operands).then(|| {
        Box::new(LinearBackward {
            x: x.detach(),
            weight: weight.detach(),
        }) as Box<dyn Backward>
    });
    let [y] = record(OP, &operands, [y], operation)?;
    Ok(y)
}

/// dx = dy W, dW = dyᵀ x, db = Σ_rows dy; all added in place to gradients that are there.
struct LinearBackward {
    x: Var,
    weight: Var,
}

impl Backward for LinearBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        let dy = dy.mat()?;
        if let Some((dx, accumulate)) = context.accumulator(0)? {
            cpu::backward_input(dy, check::values(&self.weight)?, dx, accumulate);
        }
        if let Some((dw, accumulate)) = context.accumulator(1)? {
            cpu::backward_weight(dy, self.x.mat()?, dw.into_slice(), accumulate);
        }
        if let Some((db, accumulate)) = context.accumulator(2)? {
            cpu::backward_bias(dy, db.into_slice(), accumulate);
        }
        Ok(())
    }
}
