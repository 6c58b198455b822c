//! The short causal convolution over time.

use serpens_core::{DType, Device, Tensor, Var, View, ViewMut};
use serpens_ops::causal_conv1d::{ConvOptions, StepConv, causal_conv1d, step_of_product};
use serpens_ops::linear::Norm;

use super::linear::vector;
use super::{Linear, Sequence};
use crate::setting::{SIZE, check};
use crate::{Param, Result, Start, module};

/// y_t = act(b + Σ_k w_k x_(t-W+1+k)), each channel by itself. See [`serpens_ops::causal_conv1d`].
#[derive(Clone, Debug)]
pub struct CausalConv1d {
    weight: Param, // (channels, 1, width)
    bias: Option<Param>,
    silu: bool,
}

module!(CausalConv1d { weight => "weight", bias => "bias" });

impl CausalConv1d {
    /// `width` taps for each of the channels, with a bias or without one, followed by SiLU or not. Weights and bias
    /// start uniform in ±width^-1/2.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a width of 0.
    pub fn plan([channels, width]: [usize; 2], bias: bool, silu: bool) -> Result<Self> {
        check("d_conv", width as f64, SIZE)?;
        let bound = (width as f32).sqrt().recip();
        let start = Start::Uniform { bound };
        Ok(Self {
            bias: bias.then(|| Param::new([channels], start.clone()).without_decay()),
            weight: Param::new([channels, 1, width], start),
            silu,
        })
    }

    /// y_t = x_(t-1), of which nothing is learnt.
    pub(crate) fn shift(channels: usize) -> Self {
        let mut weight = Param::new([channels, 1, 2], Start::Row(vec![1.0, 0.0]));
        weight.trained = false;
        Self {
            weight,
            bias: None,
            silu: false,
        }
    }

    /// The state before the first token: zeros (batch, width - 1, channels).
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        let weight = self.weight.shape();
        let shape = [batch, weight.cols() - 1, weight.rows()];
        Ok(Tensor::zeros(shape, DType::F32, device)?.into())
    }

    /// Convolves a sequence. With `state`, the sequence continues the one that left it, and it is replaced.
    ///
    /// # Shapes
    /// (batch, length, channels) → the same
    pub fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var> {
        let weight = self.weight.var()?;
        let bias = self.bias.as_ref().map(Param::var).transpose()?;
        let options = ConvOptions {
            silu: self.silu,
            starts: sequence.starts,
            reverse: sequence.reverse,
        };
        let output = causal_conv1d(x, &weight, bias.as_ref(), state.as_deref(), &options)?;
        if let Some(state) = state {
            *state = output.final_state;
        }
        Ok(output.y)
    }

    /// Taps and bias where SiLU follows.
    pub(crate) fn with_silu(&self) -> Result<Option<(View<'_>, Option<View<'_>>)>> {
        let operands = (self.weight.value()?.view(), vector(&self.bias)?);
        Ok(self.silu.then_some(operands))
    }

    /// Convolves the first columns of xz = W norm(h) + b, of one token of each slot, to u; the states
    /// (slots, (width - 1) · channels) are moved on in place. What those columns of xz hold is not said.
    ///
    /// # Shapes
    /// h (slots, inputs), xz (slots, outputs), u (slots, channels)
    pub(crate) fn step(
        &self,
        (h, norm, proj): (View<'_>, Norm<'_>, &Linear),
        xz: ViewMut<'_>,
        state: ViewMut<'_>,
        u: ViewMut<'_>,
    ) -> Result<()> {
        let conv = StepConv {
            weight: self.weight.value()?.view(),
            bias: vector(&self.bias)?,
            silu: self.silu,
            state,
        };
        let (w, bias) = (proj.weight.weight()?, vector(&proj.bias)?);
        Ok(step_of_product(h, Some(norm), w, bias, xz, conv, u)?)
    }
}
