//! A minimal gated recurrence: (x, w) = W_in u, g = σ(w + b), h_t = (1 - g_t) ⊙ h_(t-1) + g_t ⊙ x_t, y = W_out h.

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::gated::{Form, Gate};
use super::{Mixer, MixerSettings};
use crate::ssm::GateStart;
use crate::{Result, StepSize};

/// Configures a minimal gated recurrence, the minGRU of arXiv 2410.01201 without an activation of the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct MinGruConfig {
    /// Inner width over model width.
    #[default = 2]
    pub expand: usize,
    /// Initial step sizes Δ, of which the gate is 1 - exp(-Δ): a state lasts for about 1 / Δ tokens.
    #[default(StepSize { min: 1e-2, max: 1.0, floor: 1e-4 })]
    pub dt: StepSize,
}

static FORM: Form = Form {
    in_proj: "in_proj",
    conv: "",
    silu: false,
    inputs: 2, // x, w
    x: [0, 2],
    factor: None,
    gate: Gate::None,
};

impl MixerSettings for MinGruConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        self.dt.check()?;
        let (widths, recurrence) = ([d_model, self.expand], GateStart(self.dt));
        FORM.plan(widths, None, &recurrence, false, output_divisor)
    }
}
