//! The forward pass of one segment of a sequence.

use serpens_core::MatMut;

use super::sequence::{BLOCK, SEEN, Sequence, WIDEST, filter, load_rows};
use crate::simd::{Simd, WithSimd, load, silu, store};

/// The forward pass of the steps `steps.0..steps.1`.
pub(super) struct Forward<'a> {
    pub(super) sequence: Sequence<'a>,
    pub(super) steps: (usize, usize),
    pub(super) y: &'a MatMut<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (mut step, end) = self.steps;
        while step < end {
            if step + BLOCK <= end && self.sequence.is_plain(step) {
                match self.sequence.width {
                    2 => self.block::<S, 2>(s, step),
                    3 => self.block::<S, 3>(s, step),
                    _ => self.block::<S, WIDEST>(s, step),
                }
                step += BLOCK;
            } else {
                self.single(s, step);
                step += 1;
            }
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn single<S: Simd>(&self, s: S, step: usize) {
        let row = self.sequence.row(step);
        // SAFETY: the steps of a task are its own.
        let y = unsafe { self.y.part(row, 0, self.y.cols()) };
        self.sequence.sum_row(s, step, y);
        if self.sequence.silu {
            for y in y.chunks_mut(S::F32_LANES) {
                let value = silu(s, load(s, y));
                store(s, y, value);
            }
        }
    }

    #[inline(always)]
    fn block<S: Simd, const W: usize>(&self, s: S, first: usize) {
        let channels = self.y.cols();
        let x = self.sequence.seen(first);
        let taps: [&[f32]; W] = std::array::from_fn(|k| self.sequence.taps.row(k));
        let bias = self.sequence.taps.row(W);
        let y: [&mut [f32]; BLOCK] = std::array::from_fn(|r| {
            // SAFETY: the steps of a task are its own, and those of a block have different rows.
            unsafe { self.y.part(self.sequence.row(first + r), 0, channels) }
        });
        for c in (0..channels).step_by(S::F32_LANES) {
            let weight = load_rows::<S, W>(s, &taps, c);
            let bias = load(s, &bias[c..]);
            let x = load_rows::<S, SEEN>(s, &x[..BLOCK + W - 1], c);
            for r in 0..BLOCK {
                let sum = filter(s, bias, &weight, &x[r..r + W]);
                let value = if self.sequence.silu {
                    silu(s, sum)
                } else {
                    sum
                };
                store(s, &mut y[r][c..], value);
            }
        }
    }
}
