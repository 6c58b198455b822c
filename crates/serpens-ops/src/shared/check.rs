//! Checks of operands that several operations share.

use serpens_core::cuda::DevicePtr;
use serpens_core::{DType, Device, Error, Result, Shape, Var, View};
pub(crate) use serpens_core::{
    expect_count as count, expect_device as device, expect_dtype as dtype,
    expect_multiple as multiple, expect_range as range,
};

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
    let expected = Shape::new(expected);
    Err(Error::shape(op, what, expected.to_string(), var.shape()))
}

/// Fails unless a view of an operand has these (rows, columns), this type and is on this device.
pub(crate) fn view(
    op: &'static str,
    what: &'static str,
    expected: [usize; 2],
    (dtype, device): (DType, Device),
    view: &View<'_>,
) -> Result<()> {
    let got = [view.rows(), view.cols()];
    if got != expected {
        let [expected, got] = [expected, got].map(|shape| Shape::new(&shape));
        return Err(Error::shape(op, what, expected.to_string(), got));
    }
    self::device(op, what, device, view.device())?;
    self::dtype(op, what, dtype, view.dtype())
}

/// Fails unless an operand is f32 or bf16.
pub(crate) fn float(op: &'static str, what: &'static str, got: DType) -> Result<()> {
    match got {
        DType::BF16 => Ok(()),
        _ => dtype(op, what, DType::F32, got),
    }
}

/// A size as kernels take it.
///
/// # Errors
/// [`Error::Range`] where it is 2³¹ or more.
pub(crate) fn int(op: &'static str, what: &'static str, size: usize) -> Result<i32> {
    range(op, what, 0..1 << 31, size)?;
    Ok(size as i32)
}

/// The f32 values of an operand that must be contiguous.
pub(crate) fn values(var: &Var) -> Result<&[f32]> {
    var.tensor()?.as_slice()
}

/// The address of an operand of a kernel on `device`, which must be there and of this type.
pub(crate) fn address(
    op: &'static str,
    what: &'static str,
    view: &View<'_>,
    dtype: DType,
    device: Device,
) -> Result<DevicePtr> {
    self::device(op, what, device, view.device())?;
    self::dtype(op, what, dtype, view.dtype())?;
    Ok(view.ptr())
}

/// Whether kernels of a GPU can read rows of all these views in accesses of `width` values, where what they read begins
/// at multiples of `columns`.
pub(crate) fn accessible(views: &[View<'_>], columns: usize, width: usize) -> bool {
    let aligned = |view: &View<'_>| view.aligned(width * view.dtype().size());
    columns.is_multiple_of(width) && views.iter().all(aligned)
}
