//! The scan on the processor: SIMD lanes over channels, threads over batch, channels and, for few channels, segments of
//! time.
//!
//! A tile is one vector of channels of one group. Time advances in chunks of 32 steps; within a chunk each tile
//! computes δ for all steps, then the recurrence for a few states at a time, whose values stay in registers, then the
//! gate.

mod arena;
mod backward;
mod decay;
mod forward;
mod lanes;
mod plan;
mod segments;
mod step;

use serpens_core::{Mat, MatMut, Matrix};

#[cfg(test)]
pub(super) use self::step::step_on;
pub use self::step::{Delta, Step, step};
use super::{Dims, ScanOperands};
use crate::simd::Isa;

/// A scan as the kernels of the processor take it: sequences as batch·length rows, and for each a flag that is true
/// where a packed sequence starts, as time runs ([`crate::Starts::flags`]).
pub type Scan<'a> = super::Scan<Mat<'a>, &'a [bool]>;

/// Panics unless the scan's operands have their shapes.
fn check(scan: &Scan) {
    let dims = &scan.dims;
    assert!(dims.length > 0 && dims.state > 0, "an empty scan");
    assert!(dims.channels.is_multiple_of(dims.groups), "groups");
    assert_eq!(dims.complex, scan.operands.a_im.is_some(), "im A");
    assert!(!(dims.complex && scan.zero_order_hold), "zero-order hold");
    for (role, mat) in scan.operands.iter() {
        role.assert_fits(dims, mat);
    }
    assert!(
        scan.starts.is_none_or(|starts| starts.len() == dims.rows()),
        "starts"
    );
}

/// Panics unless a state of all sequences and checkpoints have their lengths, where they are given.
fn check_states(dims: &Dims, state: Option<&[f32]>, checkpoints: Option<&[f32]>) {
    let len = dims.batch * dims.channels * dims.width();
    assert!(state.is_none_or(|x| x.len() == len), "the last state");
    let len = dims.checkpoint_len();
    assert!(checkpoints.is_none_or(|x| x.len() == len), "checkpoints");
}

/// Panics unless a matrix is (batch·length, channels).
fn check_rows<V>(dims: &Dims, name: &str, matrix: &Matrix<V>) {
    let shape = (dims.rows(), dims.channels);
    assert_eq!((matrix.rows(), matrix.cols()), shape, "{name}");
}

/// Computes `out` (batch·length, channels), and where asked for the state after the last step (batch, channels, P·N)
/// and the checkpoints that [`backward`] needs ([`super::Dims::checkpoint_len`] values).
///
/// # Panics
/// If a size does not fit, before anything is computed.
pub fn forward(
    scan: &Scan,
    out: MatMut,
    last_state: Option<&mut [f32]>,
    checkpoints: Option<&mut [f32]>,
) {
    forward_on(Isa::current(), scan, out, last_state, checkpoints);
}

/// [`forward`] with a given instruction set.
pub(super) fn forward_on(
    isa: Isa,
    scan: &Scan,
    out: MatMut,
    last_state: Option<&mut [f32]>,
    checkpoints: Option<&mut [f32]>,
) {
    check(scan);
    check_rows(&scan.dims, "out", &out);
    check_states(&scan.dims, last_state.as_deref(), checkpoints.as_deref());
    match (scan.dims.parts(), scan.zero_order_hold) {
        (1, false) => forward::run::<1, false>(isa, scan, &out, last_state, checkpoints),
        (1, true) => forward::run::<1, true>(isa, scan, &out, last_state, checkpoints),
        _ => forward::run::<2, false>(isa, scan, &out, last_state, checkpoints),
    }
}

/// Computes every gradient from that of `out` and, where given, of the last state, with the checkpoints that
/// [`forward`] left for the same scan. `grads` are overwritten: one for each operand.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    scan: &Scan,
    checkpoints: &[f32],
    dout: Mat,
    dlast: Option<&[f32]>,
    grads: ScanOperands<MatMut>,
) {
    backward_on(Isa::current(), scan, checkpoints, dout, dlast, grads);
}

/// [`backward`] with a given instruction set.
pub(super) fn backward_on(
    isa: Isa,
    scan: &Scan,
    checkpoints: &[f32],
    dout: Mat,
    dlast: Option<&[f32]>,
    grads: ScanOperands<MatMut>,
) {
    check(scan);
    let dims = &scan.dims;
    check_rows(dims, "dout", &dout);
    check_states(dims, dlast, Some(checkpoints));
    for (role, grad) in grads.iter() {
        role.assert_fits(dims, grad);
    }
    let given = scan.operands.into_array().map(|x| x.is_some());
    let wanted = grads.as_ref().into_array().map(|x| x.is_some());
    assert_eq!(given, wanted, "a gradient for each operand");
    match (dims.parts(), scan.zero_order_hold) {
        (1, false) => backward::run::<1, false>(isa, scan, checkpoints, dout, dlast, grads),
        (1, true) => backward::run::<1, true>(isa, scan, checkpoints, dout, dlast, grads),
        _ => backward::run::<2, false>(isa, scan, checkpoints, dout, dlast, grads),
    }
}
