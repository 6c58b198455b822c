//! The search for scales and minima of blocks of 256 values, by least squares: of several roundings of a sub-block the
//! one with the smallest Σ (x - x')², and then the block's own scales and those of its sub-blocks in turn, as long as
//! the error falls. Plain loops with one order of sums, compiled for each instruction set: all make the same blocks.

use std::marker::PhantomData;

use half::f16;

use crate::simd::{Simd, WithSimd, dispatch};

/// Values of a block.
pub(super) const VALUES: usize = 256;
/// Turns of improvement at most; few blocks take more.
pub(super) const TURNS: usize = 6;
/// No scale reaches larger magnitudes, and the squares of smaller ones are finite.
const MOST: f32 = 1e15;

/// A kind of blocks that is searched for.
pub(super) trait Searched {
    /// Bytes of a block.
    const BYTES: usize;

    /// Makes a block, and says whether its scales are finite.
    fn encode(values: &[f32; VALUES], block: &mut [u8]) -> bool;
}

/// f32 as blocks of this kind, and whether they hold all values.
pub(super) fn blocks<K: Searched>(values: &[f32], bytes: &mut [u8]) -> bool {
    dispatch(Search::<K>::new(values, bytes))
}

/// The making of blocks.
pub(super) struct Search<'a, K> {
    values: &'a [f32],
    bytes: &'a mut [u8],
    kind: PhantomData<K>,
}

impl<'a, K> Search<'a, K> {
    pub(super) fn new(values: &'a [f32], bytes: &'a mut [u8]) -> Self {
        let kind = PhantomData;
        Self {
            values,
            bytes,
            kind,
        }
    }
}

impl<K: Searched> WithSimd for Search<'_, K> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        let blocks = self.bytes.chunks_exact_mut(K::BYTES);
        let mut pairs = self.values.as_chunks().0.iter().zip(blocks);
        pairs.all(|(values, block)| {
            let within = values.iter().fold(true, |all, x| all & (x.abs() <= MOST));
            within && K::encode(values, block)
        })
    }
}

/// The integer nearest to x, halves to even, between two bounds of small magnitude; the lower one where x is NaN.
#[inline(always)]
pub(super) fn nearest(x: f32, [least, most]: [f32; 2]) -> f32 {
    // Added to a small number, it leaves an integer; subtracted again, that integer.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    let above = if x > least { x } else { least };
    let between = if above < most { above } else { most };
    between + ROUND - ROUND
}

/// Σ f(i) over `N` values, in the order of sixteen lanes.
#[inline(always)]
pub(super) fn sum<const N: usize>(f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    for first in (0..N).step_by(16) {
        for (i, sum) in lanes.iter_mut().enumerate() {
            *sum += f(first + i);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[half + i];
        }
    }
    lanes[0]
}

/// Rounded as it is stored.
#[inline(always)]
pub(super) fn stored(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}
