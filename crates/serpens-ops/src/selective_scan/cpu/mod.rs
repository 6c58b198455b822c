//! The scan on the CPU: SIMD lanes over channels, threads over batch, channels and, for few channels, pieces of time.
//!
//! A tile is one vector of channels of one group. Time advances in blocks of 32 steps; within a block each tile computes δ
//! for all steps, then the recurrence for a few states at a time, whose values stay in registers, then the gate. Callers have
//! checked all shapes.

mod backward;
mod forward;
mod lanes;
mod pieces;
mod plan;
mod scratch;
mod step;

use serpens_core::{Mat, MatMut};

use crate::simd::Isa;
use plan::BLOCK;

/// The sizes of one scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Number of independent sequences (rows of the batch).
    pub batch: usize,
    /// Positions per sequence.
    pub length: usize,
    /// Channels, each with a state of its own.
    pub channels: usize,
    /// N, the values of the state per channel (complex numbers for a complex A).
    pub state: usize,
    /// Groups of channels that share B and C; a divisor of `channels`.
    pub groups: usize,
}

/// The diagonal A, (channels, N).
#[derive(Clone, Copy, Debug)]
pub enum A<'a> {
    /// Real values.
    Real(&'a [f32]),
    /// Complex values in two parts.
    Complex {
        /// Real parts.
        re: &'a [f32],
        /// Imaginary parts; |δ im| must stay below 10^4.
        im: &'a [f32],
    },
}

impl A<'_> {
    /// The f32 values that one number of the state takes: 1 for real, 2 for complex.
    pub fn parts(&self) -> usize {
        match self {
            A::Real(_) => 1,
            A::Complex { .. } => 2,
        }
    }
}

/// Where the gradient of [`A`] goes, in the same layout.
#[derive(Debug)]
pub enum AMut<'a> {
    /// For a real A.
    Real(&'a mut [f32]),
    /// For a complex A.
    Complex {
        /// With respect to the real parts.
        re: &'a mut [f32],
        /// With respect to the imaginary parts.
        im: &'a mut [f32],
    },
}

/// What a scan reads. `parts` is 1 for a real A and 2 for a complex one; rows are batch·length.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// u: (batch·length, channels).
    pub u: Mat<'a>,
    /// Δ before bias and softplus: (batch·length, channels).
    pub delta: Mat<'a>,
    /// A: (channels, N).
    pub a: A<'a>,
    /// B: (batch·length, groups·parts·N).
    pub b: Mat<'a>,
    /// C: (batch·length, groups·parts·N).
    pub c: Mat<'a>,
    /// D: (channels).
    pub d: Option<&'a [f32]>,
    /// The gate: (batch·length, channels).
    pub z: Option<Mat<'a>>,
    /// Added to Δ: (channels).
    pub delta_bias: Option<&'a [f32]>,
    /// The state before the first step: (batch, channels, parts·N); zero where absent.
    pub initial_state: Option<&'a [f32]>,
    /// True where a packed sequence starts: (batch·length).
    pub starts: Option<&'a [bool]>,
    /// Whether δ = softplus(Δ + bias) or δ = Δ + bias.
    pub softplus: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
}

/// Where the gradients go, in the shapes of what they belong to. All are overwritten.
#[derive(Debug)]
pub struct Grads<'a> {
    /// With respect to u.
    pub u: MatMut<'a>,
    /// With respect to Δ before bias and softplus.
    pub delta: MatMut<'a>,
    /// With respect to z.
    pub z: Option<MatMut<'a>>,
    /// With respect to A.
    pub a: AMut<'a>,
    /// With respect to B.
    pub b: MatMut<'a>,
    /// With respect to C.
    pub c: MatMut<'a>,
    /// With respect to D.
    pub d: Option<&'a mut [f32]>,
    /// With respect to the bias of Δ.
    pub delta_bias: Option<&'a mut [f32]>,
    /// With respect to the initial state.
    pub initial_state: Option<&'a mut [f32]>,
}

impl Dims {
    /// Channels of one group.
    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Rows of u, Δ, z, B and C.
    fn rows(&self) -> usize {
        self.batch * self.length
    }

    fn debug_check(&self, x: &Inputs) {
        let (rows, wide) = (self.rows(), self.channels);
        let state = x.a.parts() * self.state;
        debug_assert!(
            self.length > 0 && self.state > 0 && self.channels.is_multiple_of(self.groups)
        );
        for mat in [Some(x.u), Some(x.delta), x.z].into_iter().flatten() {
            debug_assert_eq!((mat.rows(), mat.cols()), (rows, wide));
        }
        for mat in [x.b, x.c] {
            debug_assert_eq!((mat.rows(), mat.cols()), (rows, self.groups * state));
        }
        match x.a {
            A::Real(a) => debug_assert_eq!(a.len(), wide * self.state),
            A::Complex { re, im } => {
                debug_assert_eq!((re.len(), im.len()), (wide * self.state, wide * self.state));
            }
        }
        debug_assert!(x.d.is_none_or(|d| d.len() == wide));
        debug_assert!(x.delta_bias.is_none_or(|bias| bias.len() == wide));
        debug_assert!(
            x.initial_state
                .is_none_or(|h| h.len() == self.batch * wide * state)
        );
        debug_assert!(x.starts.is_none_or(|starts| starts.len() == rows));
    }
}

/// The number of values in the checkpoints of a scan, with `parts` as of [`A::parts`].
pub fn checkpoint_len(dims: &Dims, parts: usize) -> usize {
    dims.batch * dims.length.div_ceil(BLOCK) * dims.channels * parts * dims.state
}

/// Computes `out` (batch·length, channels), and where asked for the state after the last step (batch, channels, parts·N) and
/// the checkpoints that [`backward`] needs ([`checkpoint_len`] values).
pub fn forward(
    dims: &Dims,
    inputs: &Inputs,
    out: MatMut,
    last_state: Option<&mut [f32]>,
    checkpoints: Option<&mut [f32]>,
) {
    forward_on(Isa::current(), dims, inputs, out, last_state, checkpoints);
}

/// [`forward`] with a given instruction set.
pub(super) fn forward_on(
    isa: Isa,
    dims: &Dims,
    inputs: &Inputs,
    out: MatMut,
    last_state: Option<&mut [f32]>,
    checkpoints: Option<&mut [f32]>,
) {
    dims.debug_check(inputs);
    match inputs.a.parts() {
        1 => forward::run::<1>(isa, dims, inputs, &out, last_state, checkpoints),
        _ => forward::run::<2>(isa, dims, inputs, &out, last_state, checkpoints),
    }
}

/// Computes every gradient from that of `out` and, where given, of the last state, with the checkpoints that [`forward`] left
/// for the same inputs.
pub fn backward(
    dims: &Dims,
    inputs: &Inputs,
    checkpoints: &[f32],
    dout: Mat,
    dlast: Option<&[f32]>,
    grads: Grads,
) {
    backward_on(
        Isa::current(),
        dims,
        inputs,
        checkpoints,
        dout,
        dlast,
        grads,
    );
}

/// [`backward`] with a given instruction set.
pub(super) fn backward_on(
    isa: Isa,
    dims: &Dims,
    inputs: &Inputs,
    checkpoints: &[f32],
    dout: Mat,
    dlast: Option<&[f32]>,
    grads: Grads,
) {
    dims.debug_check(inputs);
    debug_assert_eq!(checkpoints.len(), checkpoint_len(dims, inputs.a.parts()));
    debug_assert_eq!((dout.rows(), dout.cols()), (dims.rows(), dims.channels));
    match inputs.a.parts() {
        1 => backward::run::<1>(isa, dims, inputs, checkpoints, dout, dlast, grads),
        _ => backward::run::<2>(isa, dims, inputs, checkpoints, dout, dlast, grads),
    }
}

/// One step of decoding: `dims.length` is 1, `state` (batch, channels, parts·N) is read and overwritten, and the initial state
/// and `starts` of the inputs are not looked at.
pub fn step(dims: &Dims, inputs: &Inputs, state: &mut [f32], out: MatMut) {
    step_on(Isa::current(), dims, inputs, state, out);
}

/// [`step`] with a given instruction set.
pub(super) fn step_on(isa: Isa, dims: &Dims, inputs: &Inputs, state: &mut [f32], out: MatMut) {
    dims.debug_check(inputs);
    debug_assert_eq!(dims.length, 1);
    match inputs.a.parts() {
        1 => step::run::<1>(isa, dims, inputs, state, &out),
        _ => step::run::<2>(isa, dims, inputs, state, &out),
    }
}
