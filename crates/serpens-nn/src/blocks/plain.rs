//! The plain block: a state space model between two projections.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::silu;

use super::{BlockState, inner_width, split};
use crate::layers::{Inner, InnerConfig, Linear, LinearConfig, SelectiveSsmConfig, Sequence};
use crate::{Result, module};

/// Configures a [`PlainBlock`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlainBlockConfig {
    /// The state space model inside.
    pub inner: InnerConfig,
    /// Inner width over model width.
    pub expand: usize,
}

impl Default for PlainBlockConfig {
    fn default() -> Self {
        Self {
            inner: InnerConfig::S6(SelectiveSsmConfig::default()),
            expand: 2,
        }
    }
}

impl PlainBlockConfig {
    /// A block for a model of width `d_model`; W_out starts divided by `output_divisor`.
    pub fn plan(&self, d_model: usize, output_divisor: f32) -> Result<PlainBlock> {
        let d_inner = inner_width(d_model, self.expand)?;
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(false);
        Ok(PlainBlock {
            in_proj: linear(d_model, d_inner).plan(),
            inner: self.inner.plan(d_model, d_inner)?,
            out_proj: linear(d_inner, d_model)
                .with_init_divisor(output_divisor)
                .plan(),
        })
    }
}

/// y = W_out silu(SSM(W_in u)): no gate, no convolution.
#[derive(Clone, Debug)]
pub struct PlainBlock {
    in_proj: Linear, // (d_inner, d_model)
    pub(super) inner: Inner,
    out_proj: Linear, // (d_model, d_inner)
}

module!(PlainBlock {
    in_proj => "in_proj",
    inner => "",
    out_proj => "out_proj",
});

impl PlainBlock {
    /// The state space model's state.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<BlockState> {
        Ok(vec![self.inner.initial_state(batch, device)?])
    }

    /// See [`super::Block::forward`].
    pub fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut BlockState>,
    ) -> Result<Var> {
        let [ssm_state] = split(state)?;
        let x = self.in_proj.forward(x)?;
        let y = self.inner.forward(&x, None, sequence, ssm_state)?;
        self.out_proj.forward(&silu(&y)?)
    }
}
