//! Powers of Ā for a tile of channels: a table of the first few in f32, and f64 factors that carry it from block to
//! block, so that no rounding accumulates along the kernel.

use super::zero_order_hold::{C64, Discrete};
use crate::lti_kernel::LtiSystem;

/// Steps per block.
pub(super) const BLOCK: usize = 16;
/// Channels per tile.
pub(super) const TILE: usize = 16;

/// One value for each channel of a tile.
pub(super) type Lanes = [f32; TILE];

/// The states n of a tile's channels.
pub(super) struct Powers {
    /// Discretised states, (N, TILE).
    pub(super) states: Vec<[Discrete; TILE]>,
    /// Ā^j for j < BLOCK: (N, BLOCK), real and imaginary parts.
    pub(super) table: Vec<[(Lanes, Lanes); BLOCK]>,
    /// Ā^BLOCK: (N, TILE).
    stride: Vec<[C64; TILE]>,
    /// Ā^t at the start of the present block: (N, TILE).
    pub(super) front: Vec<[C64; TILE]>,
}

impl Powers {
    /// For the channels from `first`; those beyond the last repeat it.
    pub(super) fn new(system: &LtiSystem<&[f32]>, first: usize) -> Self {
        let dims = system.dims();
        let mut powers = Self {
            states: Vec::with_capacity(dims.state),
            table: Vec::with_capacity(dims.state),
            stride: Vec::with_capacity(dims.state),
            front: vec![[C64::ONE; TILE]; dims.state],
        };
        for n in 0..dims.state {
            let states: [Discrete; TILE] = std::array::from_fn(|lane| {
                system.discretise((first + lane).min(dims.channels - 1), n)
            });
            let mut power = [C64::ONE; TILE];
            let table = std::array::from_fn(|_| {
                let rounded = (power.map(|p| p.re as f32), power.map(|p| p.im as f32));
                for (power, state) in power.iter_mut().zip(&states) {
                    *power = *power * state.a_bar;
                }
                rounded
            });
            powers.states.push(states);
            powers.table.push(table);
            powers.stride.push(power);
        }
        powers
    }

    /// Moves on to the next block.
    pub(super) fn advance(&mut self) {
        for (front, stride) in self.front.iter_mut().zip(&self.stride) {
            for (front, stride) in front.iter_mut().zip(stride) {
                *front = *front * *stride;
            }
        }
    }
}
