//! y = x Wᵀ + b.

use serpens_core::Var;

use crate::{Param, Result, Start, module};

/// y = x Wᵀ + b. See [`serpens_ops::linear`].
#[derive(Clone, Debug)]
pub struct Linear {
    pub(crate) weight: Param, // (outputs, inputs)
    pub(crate) bias: Option<Param>,
}

module!(Linear { weight => "weight", bias => "bias" });

impl Linear {
    /// From `inputs` to `outputs` features without a bias; weights start uniform in ±inputs^-1/2.
    pub fn plan(inputs: usize, outputs: usize) -> Self {
        Self::plan_with([inputs, outputs], false, 1.0)
    }

    /// The same with a bias, which starts at zero, or without one, and with initial weights divided by `divisor`:
    /// residual branches of deep models start smaller.
    pub fn plan_with([inputs, outputs]: [usize; 2], bias: bool, divisor: f32) -> Self {
        let bound = (inputs.max(1) as f32).sqrt().recip() / divisor;
        let zeros = || Param::new([outputs], Start::Constant(0.0)).without_decay();
        Self {
            weight: Param::new([outputs, inputs], Start::Uniform { bound }).as_matrix(),
            bias: bias.then(zeros),
        }
    }

    /// # Shapes
    /// (…, inputs) → (…, outputs)
    pub fn forward(&self, x: &Var) -> Result<Var> {
        self.weight.linear(x, self.bias.as_ref())
    }
}
