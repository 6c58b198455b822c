//! Rows of a table by token id.

use serpens_core::Var;
use serpens_ops::embedding::embedding;

use crate::{Param, Result, Start, module};

/// `y = table[id]`. See [`serpens_ops::embedding`].
#[derive(Clone, Debug)]
pub struct Embedding {
    pub(crate) weight: Param, // (vocab_size, d_model)
}

module!(Embedding { weight => "weight" });

impl Embedding {
    /// A table of `vocab_size` rows of `d_model` values, which start normal with mean 0 and this standard deviation.
    pub fn plan(vocab_size: usize, d_model: usize, std: f32) -> Self {
        let weight = Param::new([vocab_size, d_model], Start::Normal { std });
        Self { weight }
    }

    /// # Shapes
    /// (…) of u32 → (…, d_model)
    pub fn forward(&self, ids: &Var) -> Result<Var> {
        Ok(embedding(ids, &self.weight.var()?)?)
    }
}
