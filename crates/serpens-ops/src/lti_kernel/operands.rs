//! What a diagonal time-invariant system is made of.

use crate::shared::operands::{Required, operands};

/// The sizes of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LtiDims {
    /// Number of channels.
    pub channels: usize,
    /// N.
    pub state: usize,
}

operands! {
    /// A diagonal time-invariant system, or the gradients of what it is made of, each as a `T`. The imaginary parts are
    /// all given or none.
    pub struct LtiSystem(s: LtiDims) {
        /// Step size Δ > 0: (channels).
        dt: Required "dt" Dense [s.channels],
        /// Re A: (channels, N).
        a: Required "A" Dense [s.channels, s.state],
        /// Im A.
        a_im: Option "Im A" Dense [s.channels, s.state],
        /// Re B: (channels, N).
        b: Required "B" Dense [s.channels, s.state],
        /// Im B.
        b_im: Option "Im B" Dense [s.channels, s.state],
        /// Re C: (channels, N).
        c: Required "C" Dense [s.channels, s.state],
        /// Im C.
        c_im: Option "Im C" Dense [s.channels, s.state],
        /// The skip D: (channels).
        d: Option "D" Dense [s.channels],
    }
}

impl LtiSystem<&[f32]> {
    /// The sizes, from those of Δ and A.
    pub(super) fn dims(&self) -> LtiDims {
        let channels = self.dt.len();
        let state = self.a.len().checked_div(channels).unwrap_or(0);
        LtiDims { channels, state }
    }
}
