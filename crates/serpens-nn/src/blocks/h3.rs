//! The H3 block: a shift and a state space model between multiplicative gates.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::mul;

use super::{BlockState, inner_width, split};
use crate::layers::{
    CausalConv1d, CausalConv1dConfig, Inner, InnerConfig, Linear, LinearConfig, SelectiveSsmConfig,
    Sequence,
};
use crate::{Error, Result, module};

/// Configures an [`H3Block`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct H3BlockConfig {
    /// The state space model inside.
    pub inner: InnerConfig,
    /// Inner width over model width.
    pub expand: usize,
    /// How many tokens the shift reaches back, the present one counted.
    pub d_conv: usize,
}

impl Default for H3BlockConfig {
    fn default() -> Self {
        Self {
            inner: InnerConfig::S6(SelectiveSsmConfig::default()),
            expand: 1,
            d_conv: 4,
        }
    }
}

impl H3BlockConfig {
    /// A block for a model of width `d_model`; W_out starts divided by `output_divisor`.
    pub fn plan(&self, d_model: usize, output_divisor: f32) -> Result<H3Block> {
        let d_inner = inner_width(d_model, self.expand)?;
        if self.d_conv == 0 {
            return Err(Error::Config {
                field: "d_conv",
                value: "0".into(),
                reason: "the shift is at least one token wide",
            });
        }
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(false);
        Ok(H3Block {
            qkv_proj: linear(d_model, d_inner.saturating_mul(3)).plan(),
            shift: CausalConv1dConfig::new(d_inner, self.d_conv)
                .with_silu(false)
                .plan(),
            inner: self.inner.plan(d_model, d_inner)?,
            out_proj: linear(d_inner, d_model)
                .with_init_divisor(output_divisor)
                .plan(),
            d_inner,
        })
    }
}

/// (q, k, v) = W_qkv u; y = W_out (q ⊙ SSM(shift(k) ⊙ v)).
#[derive(Clone, Debug)]
pub struct H3Block {
    qkv_proj: Linear, // (3 d_inner, d_model)
    shift: CausalConv1d,
    pub(super) inner: Inner,
    out_proj: Linear, // (d_model, d_inner)
    d_inner: usize,
}

module!(H3Block {
    qkv_proj => "qkv_proj",
    shift => "shift",
    inner => "",
    out_proj => "out_proj",
});

impl H3Block {
    /// Zeros: the last inputs of the shift, and the state of the state space model.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<BlockState> {
        Ok(vec![
            self.shift.initial_state(batch, device)?,
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
        let [shift_state, ssm_state] = split(state)?;
        let qkv = self.qkv_proj.forward(x)?;
        let part = |i: usize| qkv.columns(i * self.d_inner..(i + 1) * self.d_inner);
        let k = self.shift.forward(&part(1)?, sequence, shift_state)?;
        let kv = mul(&k, &part(2)?)?;
        let y = self.inner.forward(&kv, None, sequence, ssm_state)?;
        self.out_proj.forward(&mul(&y, &part(0)?)?)
    }
}
