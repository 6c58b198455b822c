//! Checks of operands that several operations share.

use serpens_core::{Error, Result, Var};

/// The sizes of the axes of `var`, which must be K.
pub(crate) fn axes<const K: usize>(
    op: &'static str,
    what: &'static str,
    names: &str,
    var: &Var,
) -> Result<[usize; K]> {
    let shape = var.shape();
    shape[..]
        .try_into()
        .map_err(|_| Error::shape(op, what, names, shape))
}

/// Fails unless `var` has this shape.
pub(crate) fn shape(
    op: &'static str,
    what: &'static str,
    expected: &[usize],
    var: &Var,
) -> Result<()> {
    if var.shape()[..] == *expected {
        return Ok(());
    }
    let expected = serpens_core::Shape::new(expected);
    Err(Error::shape(op, what, expected.to_string(), var.shape()))
}

/// Fails unless `var` is missing or has this shape.
pub(crate) fn optional(
    op: &'static str,
    what: &'static str,
    expected: &[usize],
    var: Option<&Var>,
) -> Result<()> {
    var.map_or(Ok(()), |var| shape(op, what, expected, var))
}

/// The f32 values of an operand that must be contiguous.
pub(crate) fn values(var: &Var) -> Result<&[f32]> {
    var.tensor()?.as_slice()
}
