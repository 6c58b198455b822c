//! A grid whose rows stand one behind the other, read along its columns: how an image is scanned the other way.
//!
//! y\[b, c·R + r\] = x\[b, r·C + c\] for 0 ≤ r < R rows and 0 ≤ c < C columns.
//!
//! - x, y: (batch, R·C, width) f32, on a GPU f32 or bf16; x may be columns of wider rows.
//! - Gradient: dx\[b, r·C + c\] = dy\[b, c·R + r\], the same with rows and columns exchanged.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::{Device, Result, Tensor, Var, View, ViewMut};

use crate::check;
use crate::record::record;

const OP: &str = "swap_axes";

/// Sequences that are grids of [rows, columns], read along the columns; see the head of this module.
///
/// # Shapes
/// x (batch, rows · columns, width) → the same
///
/// # Errors
/// [`Error::Count`](serpens_core::Error::Count) where the length is not rows · columns, errors for other shapes and
/// types.
pub fn swap_axes(x: &Var, [rows, columns]: [usize; 2]) -> Result<Var> {
    let [batch, length, _] = x.shape().axes(OP, "x", "(batch, rows · columns, width)")?;
    check::count(OP, "rows of x", rows.saturating_mul(columns), length)?;
    check::int(OP, "the rows of x", batch * length)?;
    check::float(OP, "x", x.dtype())?;
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    swap(x.view(), [rows, columns], y.view_mut()?)?;
    let keep = || [columns, rows];
    record(OP, &[Some(x)], y, keep, |sizes, dy, context| {
        let [dx] = context.overwrite([0])?;
        swap(dy.view(), sizes, dx)
    })
}

fn swap(x: View<'_>, sizes: [usize; 2], y: ViewMut<'_>) -> Result<()> {
    match y.device() {
        Device::Cpu => cpu::swap_axes(x.mat()?, sizes, y.mat()?),
        Device::Cuda(_) => cuda::swap_axes(x, sizes, y)?,
    }
    Ok(())
}
