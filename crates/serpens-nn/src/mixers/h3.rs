//! H3: (q, k, v) = W_qkv u; y = W_out (q ⊙ SSM(shift(k) ⊙ v)).

use serde::{Deserialize, Serialize};

use super::gated::{Form, Gate, inner_width};
use super::{Mixer, MixerSettings};
use crate::Result;
use crate::layers::CausalConv1dConfig;
use crate::ssm::SsmConfig;

/// Configures an H3 mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct H3Config {
    /// The state space model inside.
    #[serde(rename = "inner")]
    pub ssm: SsmConfig,
    /// Inner width over model width.
    pub expand: usize,
    /// How many tokens the shift reaches back, the present one counted.
    pub d_conv: usize,
}

impl Default for H3Config {
    fn default() -> Self {
        Self {
            ssm: SsmConfig::default(),
            expand: 1,
            d_conv: 4,
        }
    }
}

static FORM: Form = Form {
    in_proj: "qkv_proj",
    conv: "shift",
    inputs: 3, // q, k, v
    x: 1,
    factor: Some(2),
    gate: Gate::Product(0),
};

impl MixerSettings for H3Config {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        let widths = [d_model, inner_width(d_model, self.expand)?];
        let shift = Some(CausalConv1dConfig {
            channels: widths[1],
            width: self.d_conv,
            bias: true,
            silu: false,
        });
        FORM.plan(widths, shift, &self.ssm, false, output_divisor)
    }

    fn ssm(&mut self) -> Option<&mut SsmConfig> {
        Some(&mut self.ssm)
    }
}
