//! Embedding: one row of a table for each id.
//!
//! y\[i\] = table\[ids\[i\]\], ids: (rows) u32, table: (vocabulary, d_model) f32 or, where no gradient is asked for,
//! bf16 or [`Packed`], y: (rows, d_model) f32. Gradient:
//! dtable\[v\] = Σ dy\[i\] over the i with ids\[i\] = v, summed in the order of i; on a GPU in that order within runs
//! of positions that depend on their number only, and then over the runs.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{BackwardContext, tracked};
use serpens_core::{DType, Device, Error, Result, Shape, Tensor, Var, View, ViewMut, bf16};

use crate::check;
use crate::linear::Weight;
use crate::quantized_linear::Packed;
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
/// ids (…) of u32, table (vocabulary, width) of f32 or bf16 → (…, width) of f32
///
/// # Errors
/// Operands of other types; on the processor, ids that are not below the vocabulary; [`Error::NoGradient`] where a tape
/// tracks a table of bf16.
pub fn embedding(ids: &Var, table: &Var) -> Result<Var> {
    let [vocabulary, width] = table.shape().axes(OP, "table", "(vocabulary, width)")?;
    let device = table.device();
    let mut y = rows_for(ids, width, device)?;
    let operands = [Some(ids), Some(table)];
    if table.dtype() != DType::F32 && tracked(&operands) {
        return Err(Error::NoGradient { op: OP });
    }
    match device {
        Device::Cpu => {
            let tokens = ids.tensor()?.as_slice::<u32>()?;
            check_ids(tokens, vocabulary)?;
            match table.dtype() {
                DType::BF16 => {
                    cpu::forward::<bf16>(tokens, table.tensor()?.as_slice()?, y.mat_mut()?);
                }
                _ => cpu::forward(tokens, check::values(table)?, y.mat_mut()?),
            }
        }
        Device::Cuda(_) => {
            cuda::forward(ids.tensor()?.view(), table.tensor()?.view(), y.view_mut()?)?
        }
    }
    record(OP, &operands, y, || ids.detach(), backward)
}

/// The same of a table in blocks, of which these rows alone are widened; there is no gradient.
///
/// # Shapes
/// ids (…) of u32, table (vocabulary, width) → (…, width) of f32
///
/// # Errors
/// As [`embedding`]; blocks that a GPU's kernels do not read.
pub fn packed_embedding(ids: &Var, table: &Packed) -> Result<Var> {
    let mut y = rows_for(ids, table.cols(), table.device())?;
    let ids = ids.reshape([1, ids.shape().count()])?;
    step(ids.view(), Weight::Packed(table), y.view_mut()?)?;
    Ok(y.into())
}

/// A place for a row of `width` values for each id.
fn rows_for(ids: &Var, width: usize, device: Device) -> Result<Tensor> {
    check::device(OP, "ids", device, ids.device())?;
    let mut dims = ids.shape().to_vec();
    dims.push(width);
    Tensor::empty(Shape::try_from(&dims[..])?, DType::F32, device)
}

/// The rows of these ids in f32, without a tape: `y[i] = table[ids[i]]`, on a GPU NaN for an id that is not below the
/// vocabulary.
///
/// # Shapes
/// ids (1, S) of u32, table (vocabulary, width), y (S, width) of f32
///
/// # Errors
/// Shapes, types or devices that do not fit; on the processor, ids that are not below the vocabulary.
pub fn step(ids: View<'_>, table: Weight<'_>, mut y: ViewMut<'_>) -> Result<()> {
    let ([vocabulary, width], device) = (table.shape(), y.device());
    check::view(OP, "ids", [1, y.rows()], (DType::U32, device), &ids)?;
    check::count(OP, "columns of y", width, y.cols())?;
    if device != Device::Cpu {
        return cuda::step(ids, table, y);
    }
    let ids = ids.mat_of::<u32>()?.into_slice();
    check_ids(ids, vocabulary)?;
    let mut y = y.reborrow().mat()?;
    for (i, id) in ids.iter().enumerate() {
        let (id, row) = (*id as usize, y.row(i));
        match table {
            Weight::Plain(table) if table.dtype() == DType::BF16 => {
                let table = table.mat_of::<bf16>()?.row(id).iter();
                row.iter_mut().zip(table).for_each(|(y, x)| *y = x.to_f32());
            }
            Weight::Plain(table) => row.copy_from_slice(table.mat()?.row(id)),
            Weight::Packed(table) => table.row(id, row)?,
        }
    }
    Ok(())
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
