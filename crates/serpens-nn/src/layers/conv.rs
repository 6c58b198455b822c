//! The short causal convolution over time.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};

use super::Sequence;
use crate::{Error, Param, Result, Start, module};

/// Configures a [`CausalConv1d`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CausalConv1dConfig {
    channels: usize,
    width: usize,
    bias: bool,
    silu: bool,
}

impl CausalConv1dConfig {
    /// `width` taps for each of `channels`, with bias and SiLU.
    pub fn new(channels: usize, width: usize) -> Self {
        Self {
            channels,
            width,
            bias: true,
            silu: true,
        }
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With or without SiLU after the sum.
    pub fn with_silu(mut self, silu: bool) -> Self {
        self.silu = silu;
        self
    }

    /// Weights and bias start uniform in ±width^-1/2.
    ///
    /// # Errors
    /// [`Error::Config`] for a width of 0.
    pub fn plan(&self) -> Result<CausalConv1d> {
        Error::check("d_conv", self.width, 1..=usize::MAX)?;
        let bound = (self.width as f32).sqrt().recip();
        let start = Start::Uniform { bound };
        let bias = Param::new([self.channels], start.clone()).without_decay();
        Ok(CausalConv1d {
            weight: Param::new([self.channels, 1, self.width], start),
            bias: self.bias.then_some(bias),
            silu: self.silu,
        })
    }
}

/// y_t = act(b + Σ_k w_k x_(t-W+1+k)), each channel by itself. See [`serpens_ops::causal_conv1d`].
#[derive(Clone, Debug)]
pub struct CausalConv1d {
    weight: Param, // (channels, 1, width)
    bias: Option<Param>,
    silu: bool,
}

module!(CausalConv1d { weight => "weight", bias => "bias" });

impl CausalConv1d {
    /// The state before the first token: zeros (batch, width - 1, channels).
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        let [channels, _, width] = *self.weight.shape() else {
            unreachable!("the weight was made with three axes");
        };
        let state = Tensor::zeros([batch, width - 1, channels], DType::F32, device)?;
        Ok(state.into())
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
        let bias = self.bias.as_ref().map(Param::var).transpose()?;
        let options = ConvOptions {
            silu: self.silu,
            starts: sequence.starts,
            reverse: sequence.reverse,
        };
        let output = causal_conv1d(
            x,
            &self.weight.var()?,
            bias.as_ref(),
            state.as_deref(),
            &options,
        )?;
        if let Some(state) = state {
            *state = output.final_state;
        }
        Ok(output.y)
    }
}
