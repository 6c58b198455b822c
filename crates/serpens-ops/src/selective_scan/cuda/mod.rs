//! The scan on a GPU. Callers have checked all shapes.

mod backward;
mod backward_complex;
mod fold;
mod forward;
mod forward_few;
mod launch;
mod plan;
mod program;
mod segments;
mod step;
mod walk;

pub use forward::forward;
pub use step::step;

use serpens_core::cuda::DevicePtr;
use serpens_core::{Result, View, ViewMut};

use super::{Dims, OP, ScanOperands};
use crate::check::{self, accessible};
use walk::BackwardScan;

/// A scan as the kernels of a GPU take it: sequences as batch·length rows, in f32 or bf16, and for each a byte that is
/// not zero where a packed sequence starts, as time runs ([`crate::Starts::bytes`]).
pub type Scan<'a> = super::Scan<View<'a>, View<'a>>;

/// Computes every gradient from that of `out` and, where given, of the last state, with the checkpoints that
/// [`forward`] left for the same scan. `grads` are overwritten: one for each operand, in its type.
///
/// # Errors
/// A device that fails.
pub fn backward(
    scan: &Scan<'_>,
    checkpoints: View<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    grads: ScanOperands<ViewMut<'_>>,
) -> Result<()> {
    let back = BackwardScan {
        scan,
        checkpoints,
        dout,
        dlast,
        grads,
    };
    match scan.dims.complex {
        false => backward::backward(&back),
        true => backward_complex::backward(&back),
    }
}

/// The address of an operand that may be absent.
fn ptr(view: Option<View<'_>>) -> DevicePtr {
    view.map_or(DevicePtr::NULL, |view| view.ptr())
}

/// The same for one that is written.
fn ptr_mut(view: &Option<ViewMut<'_>>) -> DevicePtr {
    ptr(view.as_ref().map(ViewMut::as_view))
}

/// A macro's value.
fn flag(flag: bool) -> String {
    u8::from(flag).to_string()
}

/// A kernel's grid of so many blocks.
fn grid(blocks: usize) -> Result<[u32; 3]> {
    check::range(OP, "the number of blocks", 0..1 << 31, blocks)?;
    Ok([blocks as u32, 1, 1])
}
