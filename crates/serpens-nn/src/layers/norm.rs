//! Root-mean-square normalisation.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Var};
use serpens_ops::rms_norm::{RmsNormOutput, rms_norm};

use crate::{Param, Result, Start, module};

/// Configures an [`RmsNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNormConfig {
    /// Features D.
    pub d_model: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNormConfig {
    /// Weights start at one.
    pub fn plan(&self) -> RmsNorm {
        RmsNorm {
            weight: Param::new([self.d_model], Start::Constant(1.0)).without_decay(),
            eps: self.eps,
        }
    }
}

/// y = h / √(mean h² + eps) ⊙ w with h = x + residual. See [`serpens_ops::rms_norm`].
#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub(crate) weight: Param, // (d_model)
    eps: f32,
}

module!(RmsNorm { weight => "weight" });

impl RmsNorm {
    /// Adds the residual and normalises the sum; gives both, the normalised one as `output`.
    ///
    /// # Shapes
    /// (…, d_model), (…, d_model) → (…, d_model), (…, d_model)
    pub fn forward(&self, x: &Var, residual: Option<&Var>, output: DType) -> Result<RmsNormOutput> {
        let weight = self.weight.var()?;
        Ok(rms_norm(x, residual, &weight, self.eps, output)?)
    }
}
