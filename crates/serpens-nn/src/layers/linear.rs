//! y = x Wᵀ + b.

use serde::{Deserialize, Serialize};
use serpens_core::Var;

use crate::{Param, Result, Start, module};

/// Configures a [`Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearConfig {
    inputs: usize,
    outputs: usize,
    bias: bool,
    divisor: f32,
}

impl LinearConfig {
    /// From `inputs` to `outputs` features, with a bias.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            bias: true,
            divisor: 1.0,
        }
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Divides the initial weights: residual branches of deep models start smaller.
    pub fn with_init_divisor(mut self, divisor: f32) -> Self {
        self.divisor = divisor;
        self
    }

    /// Weights start uniform in ±inputs^-1/2 / divisor, the bias zero.
    pub fn plan(&self) -> Linear {
        let bound = (self.inputs.max(1) as f32).sqrt().recip() / self.divisor;
        let bias = Param::new([self.outputs], Start::Constant(0.0)).without_decay();
        Linear {
            weight: Param::new([self.outputs, self.inputs], Start::Uniform { bound }).as_matrix(),
            bias: self.bias.then_some(bias),
        }
    }
}

/// y = x Wᵀ + b. See [`serpens_ops::linear`].
#[derive(Clone, Debug)]
pub struct Linear {
    pub(crate) weight: Param, // (outputs, inputs)
    pub(crate) bias: Option<Param>,
}

module!(Linear { weight => "weight", bias => "bias" });

impl Linear {
    /// # Shapes
    /// (…, inputs) → (…, outputs)
    pub fn forward(&self, x: &Var) -> Result<Var> {
        let bias = self.bias.as_ref().map(Param::var).transpose()?;
        self.weight.linear(x, bias.as_ref())
    }
}
