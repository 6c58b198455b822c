//! Rows of a table by token id.

use serde::{Deserialize, Serialize};
use serpens_core::Var;
use serpens_ops::embedding::embedding;

use crate::{Param, Result, Start, module};

/// Configures an [`Embedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingConfig {
    vocab_size: usize,
    d_model: usize,
    std: f32,
    tied_head: bool,
}

impl EmbeddingConfig {
    /// `vocab_size` rows of `d_model` values, with standard deviation 0.02.
    pub fn new(vocab_size: usize, d_model: usize) -> Self {
        Self {
            vocab_size,
            d_model,
            std: 0.02,
            tied_head: false,
        }
    }

    /// With this standard deviation of the initial values.
    pub fn with_std(mut self, std: f32) -> Self {
        self.std = std;
        self
    }

    /// Whether the table is the head's weight as well.
    pub fn with_tied_head(mut self, tied: bool) -> Self {
        self.tied_head = tied;
        self
    }

    /// Values start normal with mean 0.
    pub fn plan(&self) -> Embedding {
        let start = Start::Normal { std: self.std };
        let weight = Param::new([self.vocab_size, self.d_model], start);
        Embedding {
            weight: match self.tied_head {
                true => weight.as_matrix(),
                false => weight,
            },
        }
    }
}

/// `y = table[id]`. See [`serpens_ops::embedding`].
#[derive(Clone, Debug)]
pub struct Embedding {
    pub(crate) weight: Param, // (vocab_size, d_model)
}

module!(Embedding { weight => "weight" });

impl Embedding {
    /// # Shapes
    /// (…) of u32 → (…, d_model)
    pub fn forward(&self, ids: &Var) -> Result<Var> {
        Ok(embedding(ids, &self.weight.var()?)?)
    }
}
