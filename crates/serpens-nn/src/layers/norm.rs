//! Root-mean-square normalisation.

use serpens_core::{DType, Var};
use serpens_ops::linear::Norm;
use serpens_ops::rms_norm::{RmsNormOutput, rms_norm};

use crate::{Param, Result, Start, module};

/// y = h / √(mean h² + eps) ⊙ w with h = x + residual. See [`serpens_ops::rms_norm`].
#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub(crate) weight: Param, // (d_model)
    eps: f32,
}

module!(RmsNorm { weight => "weight" });

impl RmsNorm {
    /// Over `d_model` features, with `eps` added to the mean square; weights start at one.
    pub fn plan(d_model: usize, eps: f32) -> Self {
        let weight = Param::new([d_model], Start::Constant(1.0)).without_decay();
        Self { weight, eps }
    }

    /// Without weights: they are one and stay so.
    pub fn weightless(d_model: usize, eps: f32) -> Self {
        let mut norm = Self::plan(d_model, eps);
        norm.weight.trained = false;
        norm
    }

    /// Adds the residual and normalises the sum; gives both, the normalised one as `output`.
    ///
    /// # Shapes
    /// (…, d_model), (…, d_model) → (…, d_model), (…, d_model)
    pub fn forward(&self, x: &Var, residual: Option<&Var>, output: DType) -> Result<RmsNormOutput> {
        let weight = self.weight.var()?;
        Ok(rms_norm(x, residual, &weight, self.eps, output)?)
    }

    /// As the step of a product takes it.
    pub(crate) fn lowered(&self) -> Result<Norm<'_>> {
        Ok(Norm {
            weight: self.weight.value()?.view(),
            eps: self.eps,
        })
    }
}
