//! The short causal convolution over time.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};

use super::Sequence;
use crate::setting::D_CONV;
use crate::{Param, Result, Start, module};

/// Configures a [`CausalConv1d`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalConv1dConfig {
    /// Channels, each convolved by itself.
    pub channels: usize,
    /// Taps W.
    pub width: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether SiLU follows the sum.
    pub silu: bool,
}

impl CausalConv1dConfig {
    /// Weights and bias start uniform in ±width^-1/2.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a width of 0.
    pub fn plan(&self) -> Result<CausalConv1d> {
        D_CONV.check(self.width as f64)?;
        let bound = (self.width as f32).sqrt().recip();
        let start = Start::Uniform { bound };
        let bias = Param::new([self.channels], start.clone()).without_decay();
        Ok(CausalConv1d {
            weight: Param::new([self.channels, 1, self.width], start),
            bias: self.bias.then_some(bias),
            config: self.clone(),
        })
    }
}

/// y_t = act(b + Σ_k w_k x_(t-W+1+k)), each channel by itself. See [`serpens_ops::causal_conv1d`].
#[derive(Clone, Debug)]
pub struct CausalConv1d {
    weight: Param, // (channels, 1, width)
    bias: Option<Param>,
    config: CausalConv1dConfig,
}

module!(CausalConv1d { weight => "weight", bias => "bias" });

impl CausalConv1d {
    /// The state before the first token: zeros (batch, width - 1, channels).
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        let shape = [batch, self.config.width - 1, self.config.channels];
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
            silu: self.config.silu,
            starts: sequence.starts,
            reverse: sequence.reverse,
        };
        let output = causal_conv1d(x, &weight, bias.as_ref(), state.as_deref(), &options)?;
        if let Some(state) = state {
            *state = output.final_state;
        }
        Ok(output.y)
    }
}
