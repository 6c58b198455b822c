//! H3: (q, k, v) = W_qkv u; y = W_out (q ⊙ SSM(shift(k) ⊙ v)).

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::gated::{Form, Gate};
use super::{Mixer, MixerSettings};
use crate::Result;
use crate::ssm::{SsmConfig, SsmSettings};

/// Configures an H3 mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct H3Config {
    /// The state space model inside.
    #[serde(rename = "inner")]
    pub ssm: SsmConfig,
    /// Inner width over model width.
    #[default = 1]
    pub expand: usize,
    /// How many tokens the shift reaches back, the present one counted.
    #[default = 4]
    pub d_conv: usize,
}

static FORM: Form = Form {
    in_proj: "qkv_proj",
    conv: "shift",
    silu: false,
    inputs: 3, // q, k, v
    x: [1, 2],
    factor: Some(2),
    gate: Gate::Product(0),
};

impl MixerSettings for H3Config {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        let (widths, shift) = ([d_model, self.expand], Some((self.d_conv, true)));
        FORM.plan(widths, shift, &self.ssm, false, output_divisor)
    }

    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        vec![&mut self.ssm]
    }

    fn reverses(&self) -> bool {
        self.ssm.reverses()
    }
}
