//! Rows of a table by token id.

use serde::{Deserialize, Serialize};
use serpens_core::Var;
use serpens_ops::embedding::embedding;

use crate::{Param, Result, Start, module};

/// Configures an [`Embedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingConfig {
    /// Rows: the number of tokens V.
    pub vocab_size: usize,
    /// Values of a row.
    pub d_model: usize,
    /// Standard deviation of the initial values.
    pub std: f32,
    /// Whether the table is the head's weight as well.
    pub tied_head: bool,
}

impl EmbeddingConfig {
    /// Values start normal with mean 0.
    pub fn plan(&self) -> Embedding {
        let start = Start::Normal { std: self.std };
        let mut weight = Param::new([self.vocab_size, self.d_model], start);
        weight.matrix = self.tied_head;
        Embedding { weight }
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
