//! Embedding: one row of a table for each id.
//!
//! y\[i\] = table\[ids\[i\]\], ids: (rows) u32, table: (vocabulary, d_model) f32, y: (rows, d_model).
//! Gradient: dtable\[v\] = Σ dy\[i\] over the i with ids\[i\] = v, summed in the order of i.

pub mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Error, Result, Shape, Tensor, Var};

use crate::check;

const OP: &str = "embedding";

/// `y = table[id]`.
///
/// # Shapes
/// ids (…) of u32, table (vocabulary, width) → (…, width)
///
/// # Errors
/// Ids that are not u32, or not below the vocabulary.
pub fn embedding(ids: &Var, table: &Var) -> Result<Var> {
    let [vocabulary, width] = check::axes(OP, "table", "(vocabulary, width)", table)?;
    let tokens = ids.tensor()?.as_slice::<u32>()?;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(Error::argument(
            OP,
            format!("token id {id} is outside the vocabulary of {vocabulary}"),
        ));
    }
    let mut dims = ids.shape().to_vec();
    dims.push(width);
    let mut y = Tensor::empty(Shape::new(&dims), DType::F32, table.tensor()?.device())?;
    cpu::forward(tokens, check::values(table)?, y.mat_mut()?);
    let operands = [Some(ids), Some(table)];
    let operation = tracked(&operands)
        .then(|| Box::new(EmbeddingBackward { ids: ids.detach() }) as Box<dyn Backward>);
    let [y] = record(OP, &operands, [y], operation)?;
    Ok(y)
}

/// dtable[id] += dy, in the order of the positions.
struct EmbeddingBackward {
    ids: Var,
}

impl Backward for EmbeddingBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dy) = context.take_output(0) else {
            return Ok(());
        };
        if let Some((dtable, accumulate)) = context.accumulator(1)? {
            let ids = self.ids.tensor()?.as_slice()?;
            cpu::backward(ids, dy.mat()?, dtable.slice()?, accumulate);
        }
        Ok(())
    }
}
