//! Mamba: (x, z) = W_in u; y = W_out (SSM(silu(conv(x))) ⊙ silu(z)).

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::gated::{Form, Gate};
use super::{Mixer, MixerSettings};
use crate::Result;
use crate::ssm::{SsmConfig, SsmSettings};

/// Configures a Mamba mixer. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct MambaConfig {
    /// The state space model inside.
    #[serde(rename = "inner")]
    pub ssm: SsmConfig,
    /// Inner width over model width.
    #[default = 2]
    pub expand: usize,
    /// Width W of the convolution.
    #[default = 4]
    pub d_conv: usize,
    /// Whether the convolution has a bias.
    #[default = true]
    pub conv_bias: bool,
    /// Whether the two projections have one.
    pub proj_bias: bool,
}

impl MambaConfig {
    /// The paper's mixer around this state space model.
    pub fn new(ssm: impl Into<SsmConfig>) -> Self {
        Self {
            ssm: ssm.into(),
            ..Self::default()
        }
    }
}

static FORM: Form = Form {
    in_proj: "in_proj",
    conv: "conv1d",
    silu: true,
    inputs: 2, // x, z
    x: [0, 1],
    factor: None,
    gate: Gate::SiluOf(1),
};

impl MixerSettings for MambaConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        let (widths, conv) = ([d_model, self.expand], Some((self.d_conv, self.conv_bias)));
        FORM.plan(widths, conv, &self.ssm, self.proj_bias, output_divisor)
    }

    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        vec![&mut self.ssm]
    }

    fn reverses(&self) -> bool {
        self.ssm.reverses()
    }
}
