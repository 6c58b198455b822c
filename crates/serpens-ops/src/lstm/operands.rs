//! What an LSTM reads, and its sizes.

use crate::shared::operands::{Required, operands};

/// The sizes of one recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmDims {
    /// Number of rows of `length` positions.
    pub batch: usize,
    /// Positions of a row.
    pub length: usize,
    /// Channels of the state.
    pub width: usize,
}

operands! {
    /// What the recurrence reads, or the gradients of that, each as a `T`.
    pub struct LstmOperands(s: LstmDims) {
        /// (batch, length, 4 · width): i, f, g and o before their functions, without what the state adds.
        gates: Required "the gates" Rows [s.batch, s.length, 4 * s.width],
        /// W: (4 · width, width).
        weight: Required "the weight" Dense [4 * s.width, s.width],
        /// (batch, width).
        h: Option "h" Dense [s.batch, s.width],
        /// (batch, width).
        c: Option "c" Dense [s.batch, s.width],
    }
}

/// One recurrence: its sizes and what it reads. `S` says where packed sequences start.
#[derive(Clone, Copy, Debug)]
pub struct Lstm<T, S> {
    /// The sizes.
    pub dims: LstmDims,
    /// What is read.
    pub operands: LstmOperands<T>,
    /// (batch, length): where packed sequences start.
    pub starts: Option<S>,
}
