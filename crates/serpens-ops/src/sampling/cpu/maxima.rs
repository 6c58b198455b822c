//! The largest logit of every few, by which the large ones are found without looking at the others.

use super::super::Broken;
use crate::simd::{Simd, WithSimd, dispatch, load};

/// Logits of a block.
const BLOCK: usize = 64;

/// The largest logit of each [`BLOCK`].
#[derive(Default)]
pub(super) struct Maxima {
    blocks: Vec<f32>,
    /// The same in another order.
    reordered: Vec<f32>,
}

impl Maxima {
    /// Looks at logits, and finds the largest.
    pub fn find(&mut self, x: &[f32]) -> Result<f32, Broken> {
        self.blocks.resize(x.len().div_ceil(BLOCK), 0.0);
        let blocks = &mut self.blocks;
        let numbers = dispatch(Look { x, blocks });
        let max = self.blocks.iter().copied().reduce(f32::max);
        match max {
            None => Err(Broken::Empty),
            Some(_) if !numbers => Err(Broken::Nan),
            Some(max) if !max.is_finite() => Err(Broken::NotFinite),
            Some(max) => Ok(max),
        }
    }

    /// The place of the first that is the largest.
    pub fn first(&self, x: &[f32], max: f32) -> usize {
        let block = self.blocks.iter().position(|largest| *largest == max);
        let first = block.unwrap_or(0) * BLOCK;
        let place = x[first..].iter().position(|x| *x == max);
        first + place.unwrap_or(0)
    }

    /// A number that at least `least` logits reach, and not many more: so many blocks have a logit that does.
    pub fn bound(&mut self, least: usize) -> f32 {
        if least >= self.blocks.len() {
            return f32::NEG_INFINITY;
        }
        self.reordered.clone_from(&self.blocks);
        let by_falling = |a: &f32, b: &f32| b.total_cmp(a);
        *(self.reordered.select_nth_unstable_by(least - 1, by_falling)).1
    }

    /// The blocks with a logit that reaches `bound`, and the token of the first of each.
    pub fn blocks<'a>(
        &'a self,
        x: &'a [f32],
        bound: f32,
    ) -> impl Iterator<Item = (&'a [f32], u32)> {
        let blocks = x.chunks(BLOCK).zip((0..).step_by(BLOCK)).zip(&self.blocks);
        let reaching = blocks.filter(move |(_, largest)| **largest >= bound);
        reaching.map(|(block, _)| block)
    }
}

/// Finds the largest of each block, and says whether all are numbers.
struct Look<'a> {
    x: &'a [f32],
    blocks: &'a mut [f32],
}

impl WithSimd for Look<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> bool {
        let lanes = S::F32_LANES;
        let lowest = s.splat_f32s(f32::NEG_INFINITY);
        let (magnitude, infinite) = (s.splat_u32s(!(1 << 31)), s.splat_u32s((1 << 23) - 1));
        let mut nan = s.splat_u32s(0);
        for (x, largest) in self.x.chunks(BLOCK).zip(self.blocks) {
            let whole = x.chunks_exact(lanes);
            let rest = whole.remainder();
            let mut max = lowest;
            for x in whole {
                let x = load(s, x);
                // The sign is set beyond the magnitude of infinity.
                let bits = s.and_u32s(s.transmute_u32s_f32s(x), magnitude);
                nan = s.or_u32s(nan, s.add_u32s(bits, infinite));
                max = s.max_f32s(max, x);
            }
            *largest = s.reduce_max_f32s(max);
            for &x in rest {
                *largest = largest.max(x);
                if x.is_nan() {
                    return false;
                }
            }
        }
        let nan: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&nan));
        nan.iter().all(|bits| bits >> 31 == 0)
    }
}
