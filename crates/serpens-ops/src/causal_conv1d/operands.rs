//! What a convolution reads, and its sizes.

use crate::shared::operands::{Required, operands};

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvDims {
    /// Number of rows of `length` positions.
    pub batch: usize,
    /// Positions of a row.
    pub length: usize,
    /// Channels, each with a filter of its own.
    pub channels: usize,
    /// Width W of the filter, at least 1.
    pub width: usize,
}

operands! {
    /// What a convolution reads, or the gradients of that, each as a `T`.
    pub struct ConvOperands(s: ConvDims) {
        /// (batch, length, channels).
        x: Required "x" Rows [s.batch, s.length, s.channels],
        /// (channels, 1, W).
        weight: Required "weight" Dense [s.channels, 1, s.width],
        /// (channels).
        bias: Option "bias" Dense [s.channels],
        /// (batch, W − 1, channels).
        initial_state: Option "initial_state" Dense [s.batch, s.width - 1, s.channels],
    }
}

/// One convolution: its sizes, what it reads, and how. `S` says where packed sequences start.
#[derive(Clone, Copy, Debug)]
pub struct Conv<T, S> {
    /// The sizes.
    pub dims: ConvDims,
    /// What is read.
    pub operands: ConvOperands<T>,
    /// (batch, length): where packed sequences start, as time runs: in reverse at their last position.
    pub starts: Option<S>,
    /// Whether a position sees those behind it instead of those before it.
    pub reverse: bool,
    /// Whether silu follows the sum.
    pub silu: bool,
}
