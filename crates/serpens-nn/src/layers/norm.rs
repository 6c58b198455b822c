//! Root-mean-square normalisation.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::rms_norm::{RmsNormOutput, rms_norm};

use crate::{Param, Result, module};

/// Configures an [`RmsNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNormConfig {
    d_model: usize,
    eps: f32,
}

impl RmsNormConfig {
    /// Over `d_model` features, with eps 1e-5.
    pub fn new(d_model: usize) -> Self {
        Self { d_model, eps: 1e-5 }
    }

    /// With this eps.
    pub fn with_eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// Weights of one.
    pub fn init(&self, device: Device) -> Result<RmsNorm> {
        let weight = Tensor::full([self.d_model], 1.0_f32, device)?;
        Ok(RmsNorm {
            weight: Param::without_decay(weight),
            eps: self.eps,
        })
    }
}

/// y = h / √(mean h² + eps) ⊙ w with h = x + residual. See [`serpens_ops::rms_norm`].
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Param, // (d_model)
    eps: f32,
}

module!(RmsNorm { weight => "weight" });

impl RmsNorm {
    /// Adds the residual and normalises the sum; gives both, the normalised one as `output`.
    ///
    /// # Shapes
    /// (…, d_model), (…, d_model) → (…, d_model), (…, d_model)
    pub fn forward(&self, x: &Var, residual: Option<&Var>, output: DType) -> Result<RmsNormOutput> {
        Ok(rms_norm(x, residual, &self.weight.var(), self.eps, output)?)
    }
}
