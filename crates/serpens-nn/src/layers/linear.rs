//! y = x Wᵀ + b.

use serde::{Deserialize, Serialize};
use serpens_core::Var;

use crate::{Param, Result, Start, module};

/// Configures a [`Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearConfig {
    /// Features of an input.
    pub inputs: usize,
    /// Features of an output.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Divides the initial weights: residual branches of deep models start smaller.
    pub divisor: f32,
}

impl LinearConfig {
    /// From `inputs` to `outputs` features, without a bias.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            bias: false,
            divisor: 1.0,
        }
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
        self.weight.linear(x, self.bias.as_ref())
    }
}
