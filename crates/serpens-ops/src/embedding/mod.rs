//! Embedding: one row of a table for each id.
//!
//! y\[i\] = table\[ids\[i\]\], ids: (rows) u32, table: (vocabulary, d_model) f32, y: (rows, d_model) f32. Gradient:
//! dtable\[v\] = Σ dy\[i\] over the i with ids\[i\] = v, summed in the order of i; on a GPU in that order within runs
//! of positions that depend on their number only, and then over the runs.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{DType, Device, Result, Shape, Tensor, Var};

use crate::check;
use crate::record::record;

const OP: &str = "embedding";

/// Asks that every id be below the vocabulary. [`embedding`] asks this itself where the ids are on the processor; a GPU
/// cannot tell without being waited for, so whoever brings ids there asks before.
///
/// # Errors
/// The first id that is not.
pub fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    let unknown = ids.iter().find(|&&id| id as usize >= vocabulary);
    unknown.map_or(Ok(()), |&id| {
        check::range(OP, "a token", 0..vocabulary, id as usize)
    })
}

/// `y = table[id]`.
///
/// On a GPU an id that is not below the vocabulary gives a row of NaN, and no gradient; see [`check_ids`].
///
/// # Shapes
/// ids (…) of u32, table (vocabulary, width) of f32 → (…, width)
///
/// # Errors
/// Operands of other types; on the processor, ids that are not below the vocabulary.
pub fn embedding(ids: &Var, table: &Var) -> Result<Var> {
    let [vocabulary, width] = table.shape().axes(OP, "table", "(vocabulary, width)")?;
    let device = table.device();
    check::device(OP, "ids", device, ids.device())?;
    let mut dims = ids.shape().to_vec();
    dims.push(width);
    let mut y = Tensor::empty(Shape::try_from(&dims[..])?, DType::F32, device)?;
    match device {
        Device::Cpu => {
            let tokens = ids.tensor()?.as_slice::<u32>()?;
            check_ids(tokens, vocabulary)?;
            cpu::forward(tokens, check::values(table)?, y.mat_mut()?);
        }
        Device::Cuda(_) => {
            cuda::forward(ids.tensor()?.view(), table.tensor()?.view(), y.view_mut()?)?
        }
    }
    let operands = [Some(ids), Some(table)];
    record(OP, &operands, y, || ids.detach(), backward)
}

/// dtable[id] += dy, in the order of the positions.
fn backward(ids: Var, dy: Tensor, context: &mut BackwardContext<'_, '_>) -> Result<()> {
    let Some((dtable, accumulate)) = context.accumulator(1)? else {
        return Ok(());
    };
    match dtable.device() {
        Device::Cpu => {
            let ids = ids.tensor()?.as_slice()?;
            cpu::backward(ids, dy.mat()?, dtable.slice()?, accumulate);
            Ok(())
        }
        Device::Cuda(_) => cuda::backward(ids.view(), dy.view(), dtable, accumulate),
    }
}
