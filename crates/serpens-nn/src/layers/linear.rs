//! y = x Wᵀ + b.

use serpens_core::{Tensor, Var, View, ViewMut};
use serpens_ops::linear::{self, Norm, Weight};

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

    /// W where there is no bias.
    pub(crate) fn unbiased(&self) -> Result<Option<Weight<'_>>> {
        self.bias
            .is_none()
            .then(|| self.weight.weight())
            .transpose()
    }

    /// y = W norm(x) + b for one token of each slot, added to what y holds where `accumulate`, without what is added to
    /// W. See [`serpens_ops::linear::step`].
    pub(crate) fn step(
        &self,
        x: View<'_>,
        norm: Option<Norm<'_>>,
        y: ViewMut<'_>,
        accumulate: bool,
    ) -> Result<()> {
        let (weight, bias) = (self.weight.weight()?, vector(&self.bias)?);
        Ok(linear::step(x, norm, weight, bias, y, accumulate)?)
    }
}

/// The values of a vector that may be absent.
pub(super) fn vector(param: &Option<Param>) -> Result<Option<View<'_>>> {
    let value = param.as_ref().map(Param::value).transpose()?;
    Ok(value.map(Tensor::view))
}
