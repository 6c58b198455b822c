//! Rows of a table by token id.

use serpens_core::{DType, Device, Tensor, Var, bf16};
use serpens_ops::linear::Weight;

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
        if h.device() != Device::Cpu {
            let ids = ids.narrow(0..slots)?;
            return Ok(h.put(0, self.forward(&ids.into())?.tensor()?)?);
        }
        let (weight, mut h) = (self.weight.weight()?, h.mat_mut()?);
        for (slot, id) in ids.as_slice::<u32>()?[..slots].iter().enumerate() {
            let (id, row) = (*id as usize, h.row(slot));
            match weight {
                Weight::Plain(table) if table.dtype() == DType::BF16 => {
                    let table = table.mat_of::<bf16>()?.row(id).iter();
                    row.iter_mut().zip(table).for_each(|(h, x)| *h = x.to_f32());
                }
                Weight::Plain(table) => row.copy_from_slice(table.mat()?.row(id)),
                Weight::Packed(table) => table.row(id, row)?,
            }
        }
        Ok(())
    }
}
