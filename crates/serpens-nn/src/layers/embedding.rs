//! Rows of a table by token id.

use rand::Rng;
use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::embedding::embedding;

use crate::{Param, Result, init, module};

/// Configures an [`Embedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingConfig {
    vocab_size: usize,
    d_model: usize,
    std: f32,
}

impl EmbeddingConfig {
    /// `vocab_size` rows of `d_model` values, with standard deviation 0.02.
    pub fn new(vocab_size: usize, d_model: usize) -> Self {
        Self {
            vocab_size,
            d_model,
            std: 0.02,
        }
    }

    /// With this standard deviation of the initial values.
    pub fn with_std(mut self, std: f32) -> Self {
        self.std = std;
        self
    }

    /// Values normal with mean 0.
    pub fn init(&self, device: Device, rng: &mut dyn Rng) -> Result<Embedding> {
        let weight = init::normal([self.vocab_size, self.d_model], self.std, device, rng)?;
        Ok(Embedding {
            weight: Param::new(weight),
        })
    }
}

/// `y = table[id]`. See [`serpens_ops::embedding`].
#[derive(Debug)]
pub struct Embedding {
    pub(crate) weight: Param, // (vocab_size, d_model)
}

module!(Embedding { weight => "weight" });

impl Embedding {
    /// # Shapes
    /// (…) of u32 → (…, d_model)
    pub fn forward(&self, ids: &Var) -> Result<Var> {
        Ok(embedding(ids, &self.weight.var())?)
    }
}
