//! The scan on a GPU. Callers have checked all shapes.

mod backward;
mod backward_complex;
mod fold;
mod forward;
mod forward_few;
mod plan;
mod segments;

pub use forward::forward;

use serpens_core::cuda::{DevicePtr, Variant};
use serpens_core::{Result, View, ViewMut};

pub use super::cpu::Dims;

/// The diagonal A, (channels, N) in f32.
#[derive(Clone, Copy, Debug)]
pub enum A<'a> {
    /// Real values.
    Real(View<'a>),
    /// Complex values in two parts.
    Complex {
        /// Real parts.
        re: View<'a>,
        /// Imaginary parts.
        im: View<'a>,
    },
}

/// What a scan reads: u, Δ, z, B and C in f32 or bf16, all alike; the rest in f32 and without gaps. `parts` is 1 for a real A and
/// 2 for a complex one; rows are batch·length.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// u: (batch·length, channels).
    pub u: View<'a>,
    /// Δ before bias and softplus: (batch·length, channels).
    pub delta: View<'a>,
    /// A: (channels, N).
    pub a: A<'a>,
    /// B: (batch·length, groups·parts·N).
    pub b: View<'a>,
    /// C: (batch·length, groups·parts·N).
    pub c: View<'a>,
    /// D: (channels).
    pub d: Option<View<'a>>,
    /// The gate: (batch·length, channels).
    pub z: Option<View<'a>>,
    /// Added to Δ: (channels).
    pub delta_bias: Option<View<'a>>,
    /// The state before the first step: (batch, channels, parts·N); zero where absent.
    pub initial_state: Option<View<'a>>,
    /// A byte for each of batch·length positions, not zero where a packed sequence starts.
    pub starts: Option<View<'a>>,
    /// Whether δ = softplus(Δ + bias) or δ = Δ + bias.
    pub softplus: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
}

/// Where the gradient of [`A`] goes.
#[derive(Debug)]
pub enum AMut<'a> {
    /// For a real A.
    Real(ViewMut<'a>),
    /// For a complex A.
    Complex {
        /// With respect to the real parts.
        re: ViewMut<'a>,
        /// With respect to the imaginary parts.
        im: ViewMut<'a>,
    },
}

/// Where the gradients go, in the shapes of what they belong to: those of u, Δ, z, B and C in their type, the rest in f32. All
/// are overwritten.
#[derive(Debug)]
pub struct Grads<'a> {
    /// With respect to u.
    pub u: ViewMut<'a>,
    /// With respect to Δ before bias and softplus.
    pub delta: ViewMut<'a>,
    /// With respect to z.
    pub z: Option<ViewMut<'a>>,
    /// With respect to A.
    pub a: AMut<'a>,
    /// With respect to B.
    pub b: ViewMut<'a>,
    /// With respect to C.
    pub c: ViewMut<'a>,
    /// With respect to D.
    pub d: Option<ViewMut<'a>>,
    /// With respect to the bias of Δ.
    pub delta_bias: Option<ViewMut<'a>>,
    /// With respect to the initial state.
    pub initial_state: Option<ViewMut<'a>>,
}

/// Computes every gradient from that of `out` and, where given, of the last state, with the checkpoints that [`forward`] left
/// for the same inputs.
///
/// # Errors
/// A device that fails.
pub fn backward(
    dims: &Dims,
    inputs: &Inputs<'_>,
    checkpoints: View<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    grads: Grads<'_>,
) -> Result<()> {
    match inputs.a {
        A::Real(_) => backward::backward(dims, inputs, checkpoints, dout, dlast, grads),
        A::Complex { .. } => {
            backward_complex::backward(dims, inputs, checkpoints, dout, dlast, grads)
        }
    }
}

/// The address of an operand that may be absent.
fn ptr(view: Option<View<'_>>) -> DevicePtr {
    view.map_or(DevicePtr::NULL, |view| view.ptr())
}

/// A macro's value.
fn flag(flag: bool) -> String {
    u8::from(flag).to_string()
}

/// Whether rows of all these views can be read in pieces of `width` values that begin at multiples of `columns`.
fn in_pieces(views: &[View<'_>], columns: usize, width: usize) -> bool {
    let aligned = |view: &View<'_>| view.aligned(width * view.dtype().size());
    columns.is_multiple_of(width) && views.iter().all(aligned)
}

/// The programs of this operation.
pub fn variants() -> Vec<Variant> {
    let mut variants = forward::variants();
    variants.extend(backward::variants());
    variants.extend(backward_complex::variants());
    variants.extend(fold::variants());
    variants
}
