//! The Mamba block.

use serde::{Deserialize, Serialize};
use serpens_core::tape::recompute;
use serpens_core::{Device, Var};

use super::{BlockState, inner_width, split};
use crate::layers::{
    CausalConv1d, CausalConv1dConfig, Inner, InnerConfig, Linear, LinearConfig, SelectiveSsmConfig,
    Sequence,
};
use crate::{Error, Recompute, Result, module};

/// Configures a [`MambaBlock`]. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MambaBlockConfig {
    /// The state space model inside.
    pub inner: InnerConfig,
    /// Inner width over model width.
    pub expand: usize,
    /// Width W of the convolution.
    pub d_conv: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the two projections have one.
    pub proj_bias: bool,
}

impl Default for MambaBlockConfig {
    fn default() -> Self {
        Self {
            inner: InnerConfig::S6(SelectiveSsmConfig::default()),
            expand: 2,
            d_conv: 4,
            conv_bias: true,
            proj_bias: false,
        }
    }
}

impl MambaBlockConfig {
    /// The paper's block around this state space model.
    pub fn new(inner: InnerConfig) -> Self {
        Self {
            inner,
            ..Self::default()
        }
    }

    /// A block for a model of width `d_model`; W_out starts divided by `output_divisor`.
    pub fn plan(&self, d_model: usize, output_divisor: f32) -> Result<MambaBlock> {
        let d_inner = inner_width(d_model, self.expand)?;
        if self.d_conv == 0 {
            return Err(Error::Config {
                field: "d_conv",
                value: "0".into(),
                reason: "the convolution is at least one token wide",
            });
        }
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(self.proj_bias);
        Ok(MambaBlock {
            in_proj: linear(d_model, d_inner.saturating_mul(2)).plan(),
            conv1d: CausalConv1dConfig::new(d_inner, self.d_conv)
                .with_bias(self.conv_bias)
                .plan(),
            inner: self.inner.plan(d_model, d_inner)?,
            out_proj: linear(d_inner, d_model)
                .with_init_divisor(output_divisor)
                .plan(),
            d_inner,
        })
    }
}

/// (x, z) = W_in u; x = silu(conv(x)); y = W_out (SSM(x) ⊙ silu(z)).
#[derive(Clone, Debug)]
pub struct MambaBlock {
    in_proj: Linear, // (2 d_inner, d_model)
    conv1d: CausalConv1d,
    pub(super) inner: Inner,
    out_proj: Linear, // (d_model, d_inner)
    d_inner: usize,
}

module!(MambaBlock {
    in_proj => "in_proj",
    conv1d => "conv1d",
    inner => "",
    out_proj => "out_proj",
});

impl MambaBlock {
    /// Zeros: the last inputs of the convolution, and the state of the state space model.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<BlockState> {
        Ok(vec![
            self.conv1d.initial_state(batch, device)?,
            self.inner.initial_state(batch, device)?,
        ])
    }

    /// See [`super::Block::forward`].
    pub fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut BlockState>,
    ) -> Result<Var> {
        let xz = self.in_proj.forward(x)?; // (batch, length, 2 d_inner)
        let y = match sequence.recompute {
            Recompute::Scan if state.is_none() && sequence.trace.is_none() => {
                let (block, plan) = (self.clone(), sequence.owned());
                let [y] = recompute("mamba", &[&xz], move |inputs| {
                    Ok([block.mix(&inputs[0], &plan.borrow(), None)?])
                })?;
                y
            }
            _ => self.mix(&xz, sequence, state)?,
        };
        self.out_proj.forward(&y)
    }

    /// What lies between the two projections: SSM(silu(conv(x))) ⊙ silu(z) of (x, z).
    ///
    /// # Shapes
    /// (batch, length, 2 d_inner) → (batch, length, d_inner)
    fn mix(
        &self,
        xz: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut BlockState>,
    ) -> Result<Var> {
        let [conv_state, ssm_state] = split(state)?;
        let z = xz.columns(self.d_inner..2 * self.d_inner)?;
        let x = xz.columns(0..self.d_inner)?;
        let x = self.conv1d.forward(&x, sequence, conv_state)?;
        self.inner.forward(&x, Some(&z), sequence, ssm_state)
    }
}
