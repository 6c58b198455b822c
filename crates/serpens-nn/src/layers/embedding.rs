//! Rows of a table by token id.

use serpens_core::{Tensor, Var};
use serpens_ops::embedding;

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
        self.weight.rows(ids)
    }

    /// The rows of the first `slots` ids, in place.
    ///
    /// # Shapes
    /// ids (S) of u32, each below vocab_size, h (S, d_model) of f32
    pub(crate) fn step(&self, ids: &Tensor, slots: usize, h: &mut Tensor) -> Result<()> {
        let h = h.view_mut()?.first_rows(slots);
        let ids = ids.view().columns(0..slots);
        Ok(embedding::step(ids, self.weight.weight()?, h)?)
    }
}
