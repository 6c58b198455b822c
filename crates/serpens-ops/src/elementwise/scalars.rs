//! Numbers that functions take besides matrices.

use serpens_core::kernel_params;

kernel_params! {
    /// A factor, or which values are dropped and what the others are multiplied by.
    #[derive(Debug, Default)]
    pub struct Scalars {
        seed: u64,
        threshold: u32, // of SHARES: the share of values that are dropped
        pub(super) factor: f32,
    }
}

/// What the share of dropped values is counted in.
const SHARES: u32 = 1 << 24;

impl Scalars {
    /// A factor alone.
    pub fn factor(factor: f32) -> Self {
        Self {
            factor,
            ..Self::default()
        }
    }

    /// Values dropped at a rate of 0 ≤ `rate` < 1, and the others multiplied so that the mean stays.
    pub fn dropout(rate: f32, seed: u64) -> Self {
        let threshold = (rate * SHARES as f32) as u32; // below SHARES, as the product is exact
        Self {
            seed,
            threshold,
            factor: SHARES as f32 / (SHARES - threshold) as f32,
        }
    }

    /// Whether value `index` of all is kept: by the upper bits of SplitMix64's output of that number (G. Steele, D.
    /// Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014).
    #[inline(always)]
    pub(super) fn keeps(&self, index: u64) -> bool {
        let step = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let state = self.seed.wrapping_add(step);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 40) as u32 >= self.threshold
    }
}
