//! The scan on the processor: SIMD lanes over channels, threads over batch, channels and, for few channels, segments of
//! time.
//!
//! A tile is one vector of channels of one group. Time advances in chunks of 32 steps; within a chunk each tile
//! computes δ for all steps, then the recurrence for a few states at a time, whose values stay in registers, then the
//! gate. Callers have checked all shapes.

mod arena;
mod backward;
mod decay;
mod forward;
mod lanes;
mod plan;
mod segments;

use serpens_core::{Mat, MatMut};

use super::{Dims, ScanOperands};
use crate::Layout;
use crate::simd::Isa;

/// A scan as the kernels of the processor take it: sequences as batch·length rows, and for each a flag that is true
/// where a packed sequence starts, as time runs ([`crate::Starts::flags`]).
pub type Scan<'a> = super::Scan<Mat<'a>, &'a [bool]>;

fn debug_check(scan: &Scan) {
    let dims = &scan.dims;
    debug_assert!(dims.length > 0 && dims.state > 0 && dims.channels.is_multiple_of(dims.groups));
    debug_assert_eq!(dims.complex, scan.operands.a_im.is_some());
    for (role, mat) in scan.operands.iter() {
        let shape = (role.shape)(dims);
        debug_assert_eq!(mat.rows() * mat.cols(), shape.count(), "{}", role.name);
        let gaps = mat.rows() > 1 && mat.stride() > mat.cols();
        debug_assert!(role.layout == Layout::Rows || !gaps, "{}", role.name);
        debug_assert!(
            role.layout == Layout::Dense || mat.cols() == shape.cols(),
            "{}",
            role.name
        );
    }
    debug_assert!(scan.starts.is_none_or(|starts| starts.len() == dims.rows()));
}

/// Computes `out` (batch·length, channels), and where asked for the state after the last step (batch, channels, P·N)
/// and the checkpoints that [`backward`] needs ([`super::Dims::checkpoint_len`] values).
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
    debug_check(scan);
    match scan.dims.parts() {
        1 => forward::run::<1>(isa, scan, &out, last_state, checkpoints),
        _ => forward::run::<2>(isa, scan, &out, last_state, checkpoints),
    }
}

/// Computes every gradient from that of `out` and, where given, of the last state, with the checkpoints that
/// [`forward`] left for the same scan. `grads` are overwritten: one for each operand.
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
    debug_check(scan);
    let dims = &scan.dims;
    debug_assert_eq!(checkpoints.len(), dims.checkpoint_len());
    debug_assert_eq!((dout.rows(), dout.cols()), (dims.rows(), dims.channels));
    match dims.parts() {
        1 => backward::run::<1>(isa, scan, checkpoints, dout, dlast, grads),
        _ => backward::run::<2>(isa, scan, checkpoints, dout, dlast, grads),
    }
}
