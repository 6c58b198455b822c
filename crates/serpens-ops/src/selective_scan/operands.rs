//! What a selective scan reads, and its sizes.

use crate::shared::operands::{Required, operands};

/// Steps between two checkpoints of the state: it is saved before every so many.
pub(super) const CHUNK: usize = 32;

/// The sizes of one scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Number of independent sequences (rows of the batch).
    pub batch: usize,
    /// Positions per sequence.
    pub length: usize,
    /// Channels, each with a state of its own.
    pub channels: usize,
    /// N, the numbers of the state per channel.
    pub state: usize,
    /// Whether those are complex.
    pub complex: bool,
    /// Groups of channels that share B and C; a divisor of `channels`.
    pub groups: usize,
}

impl Dims {
    /// P, the f32 values that one number of the state takes: 1 for real, 2 for complex.
    pub fn parts(&self) -> usize {
        if self.complex { 2 } else { 1 }
    }

    /// P N, the values of the state per channel.
    pub fn width(&self) -> usize {
        self.parts() * self.state
    }

    /// The number of values in the checkpoints of the state: (batch, ⌈length / 32⌉, channels, P N).
    pub fn checkpoint_len(&self) -> usize {
        self.batch * self.chunks() * self.channels * self.width()
    }

    /// Checkpoints of a sequence.
    pub(super) fn chunks(&self) -> usize {
        self.length.div_ceil(CHUNK)
    }

    /// Channels of one group.
    pub(super) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Rows of u, Δ, z, B and C.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.length
    }
}

operands! {
    /// What a selective scan reads, or the gradients of that, each as a `T`. P is 1 for a real A and 2 for a complex
    /// one.
    pub struct ScanOperands(d: Dims) {
        /// (batch, length, channels).
        u: Required "u" Rows [d.batch, d.length, d.channels],
        /// Δ before bias and softplus: (batch, length, channels).
        delta: Required "delta" Rows [d.batch, d.length, d.channels],
        /// The diagonal A or its real parts, negative where the state is to decay: (channels, N).
        a: Required "A" Dense [d.channels, d.state],
        /// The imaginary parts of A, with which it is complex: (channels, N). On the processor |δ Im A| must stay below
        /// 10^4.
        a_im: Option "Im A" Dense [d.channels, d.state],
        /// (batch, length, groups P N).
        b: Required "B" Rows [d.batch, d.length, d.groups * d.width()],
        /// As `b`.
        c: Required "C" Rows [d.batch, d.length, d.groups * d.width()],
        /// (channels).
        d: Option "D" Dense [d.channels],
        /// The gate: (batch, length, channels).
        z: Option "z" Rows [d.batch, d.length, d.channels],
        /// Added to Δ: (channels).
        delta_bias: Option "delta_bias" Dense [d.channels],
        /// The state before the first step: (batch, channels, P N); zero where absent.
        initial_state: Option "initial_state" Dense [d.batch, d.channels, d.width()],
    }
}

/// One scan: its sizes, what it reads, and how. `S` says where packed sequences start.
#[derive(Clone, Copy, Debug)]
pub struct Scan<T, S> {
    /// The sizes.
    pub dims: Dims,
    /// What is read.
    pub operands: ScanOperands<T>,
    /// (batch, length): where packed sequences start, as time runs: in reverse at their last position.
    pub starts: Option<S>,
    /// Whether δ = softplus(Δ + bias) or δ = Δ + bias.
    pub softplus: bool,
    /// Whether the input is w B u with w = (exp(δ A) - 1) / A, of a real A, or δ B u.
    pub zero_order_hold: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
}
