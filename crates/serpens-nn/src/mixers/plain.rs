//! A state space model between two projections: y = W_out silu(SSM(W_in u)).

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::gated::{Form, Gate};
use super::{Mixer, MixerSettings};
use crate::Result;
use crate::ssm::{SsmConfig, SsmSettings};

/// Configures a plain mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct PlainConfig {
    /// The state space model inside.
    #[serde(rename = "inner")]
    pub ssm: SsmConfig,
    /// Inner width over model width.
    #[default = 2]
    pub expand: usize,
}

static FORM: Form = Form {
    in_proj: "in_proj",
    conv: "",
    silu: false,
    inputs: 1,
    x: [0, 1],
    factor: None,
    gate: Gate::SiluOfOutput,
};

impl MixerSettings for PlainConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        let widths = [d_model, self.expand];
        FORM.plan(widths, None, &self.ssm, false, output_divisor)
    }

    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        vec![&mut self.ssm]
    }

    fn reverses(&self) -> bool {
        self.ssm.reverses()
    }
}
