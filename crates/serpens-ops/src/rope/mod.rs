//! Rotary position embedding: the columns of a head, in pairs, turned by angles that grow with the position, so that
//! products of turned rows depend on the difference of their positions alone.
//!
//! y\[b, t, h, i\] = x\[b, t, h, i\] cos a − x\[b, t, h, i + head / 2\] sin a and y\[b, t, h, i + head / 2\] =
//! x\[b, t, h, i\] sin a + x\[b, t, h, i + head / 2\] cos a, for i < head / 2, a = (from + t) · base^(−2i / head).
//!
//! - x, y: (batch, length, heads · head), f32, on a GPU f32 or bf16; x may be columns of wider rows. Pairs are half a
//!   head apart, as GPT-NeoX and Llama have them.
//! - `from`: the position of the first row of each sequence. A sequence in chunks, each from where the one before it
//!   ended, is the same as the whole.
//! - Angles are f64, their sines and cosines right to the last place of f32 at any position that a model meets.
//! - The gradient of x is that of y turned back.
//!
//! Source: J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{Device, Error, Result, Tensor, Var};

use crate::check;
use crate::record::record;

const OP: &str = "rope";

/// How [`rope`] turns its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeOptions {
    /// Columns of a head, an even number.
    pub head: usize,
    /// The first pair turns by one radian from a position to the next, the last by nearly 1 / base.
    pub base: f32,
    /// The position of each sequence's first row.
    pub from: usize,
}

/// Each head turned by the angles of its position; see the head of this module.
///
/// # Shapes
/// x (batch, length, heads · head) → (batch, length, heads · head)
///
/// # Errors
/// Another shape or type; a head of no or of an odd number of columns; a base that is not positive; positions of 2³¹ or
/// more.
pub fn rope(x: &Var, options: &RopeOptions) -> Result<Var> {
    let [_, length, width] = x.shape().axes(OP, "x", "(batch, length, heads · head)")?;
    check_head(OP, options.head, options.base)?;
    check::multiple(OP, "the number of columns of x", options.head, width)?;
    check::int(OP, "the positions", options.from.saturating_add(length))?;
    let mut y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    let turn = Turn {
        options: *options,
        length,
        back: false,
    };
    match x.device() {
        Device::Cpu => cpu::turn(x.mat()?, y.mat_mut()?, &turn),
        Device::Cuda(_) => cuda::turn(x.view(), y.view_mut()?, &turn)?,
    }
    record(OP, &[Some(x)], y, || Turn { back: true, ..turn }, backward)
}

/// Fails unless heads of so many columns can be turned, by angles of this base.
pub(crate) fn check_head(op: &'static str, head: usize, base: f32) -> Result<()> {
    check::range(op, "the columns of a head", 1..usize::MAX, head)?;
    check::multiple(op, "the columns of a head that is turned", 2, head)?;
    if base > 0.0 && base.is_finite() {
        return Ok(());
    }
    Err(Error::Value {
        op,
        what: "the base of the angles",
        expected: "a positive number",
        got: base.into(),
    })
}

/// How sequences of `length` rows are turned, or `back`.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// By which angles.
    pub options: RopeOptions,
    /// Rows of a sequence.
    pub length: usize,
    /// By the negative angles.
    pub back: bool,
}

fn backward(turn: Turn, dy: Tensor, context: &mut BackwardContext<'_, '_>) -> Result<()> {
    let [dx] = context.overwrite([0])?;
    match dy.device() {
        Device::Cpu => {
            cpu::turn(dy.mat()?, dx.mat()?, &turn);
            Ok(())
        }
        Device::Cuda(_) => cuda::turn(dy.view(), dx, &turn),
    }
}
