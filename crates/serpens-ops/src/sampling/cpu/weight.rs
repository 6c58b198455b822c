//! The weight of a token, in the numbers that every device computes with.

use std::f64::consts::LOG2_E;

use super::super::SampleOptions;
use crate::simd::{Simd, WithSimd, exp2_product, load, range, store};

/// Bits of a weight in fixed point.
pub(in crate::sampling) const FIXED: u32 = 40;

/// Weights that are added up at a time.
pub(super) const STRETCH: usize = 1024;

/// Options as numbers to compute with, the same on every device.
#[derive(Clone, Copy, Debug)]
pub(in crate::sampling) struct Law {
    /// log₂e / T, and what the float lacks.
    pub scale: [f32; 2],
    /// Below the exponents of all that is not 0 in fixed point, and where no power of two is out of range.
    pub lowest: f32,
    /// p of top-p by 2⁶⁴; 0 keeps all.
    pub nucleus: u64,
    /// Least weight that can be drawn, in fixed point.
    pub least: u64,
    /// The least float that is rounded to it.
    pub floor: f32,
}

impl Law {
    /// Of options that were checked.
    pub fn new(options: &SampleOptions) -> Self {
        let exact = (LOG2_E / f64::from(options.temperature)).min(f32::MAX.into());
        let scale = exact as f32;
        let nucleus = match options.top_p {
            1.0.. => 0,
            p => ((f64::from(p) * 2.0_f64.powi(64)) as u64).max(1),
        };
        Self {
            scale: [scale, (exact - f64::from(scale)) as f32],
            lowest: (-64.0 / scale).max(f32::MIN),
            nucleus,
            least: fixed(options.min_p),
            floor: floor(fixed(options.min_p)),
        }
    }

    /// The sum that the tokens kept by top-p reach, of all those sums to `total`.
    pub fn reached(&self, total: u64) -> u64 {
        let product = u128::from(self.nucleus) * u128::from(total);
        (product.div_ceil(1 << 64) as u64).max(1)
    }
}

/// The least weight that is rounded to `least`, or up from there.
fn floor(least: u64) -> f32 {
    // The bits of floats that are not negative are in their order.
    let (mut below, mut enough) = (0, 1.0_f32.to_bits());
    while below < enough {
        let middle = (below + enough) / 2;
        match fixed(f32::from_bits(middle)) < least {
            true => below = middle + 1,
            false => enough = middle,
        }
    }
    f32::from_bits(enough)
}

/// ⌊u · total / 2⁶⁴⌋
pub(in crate::sampling) fn scaled(u: u64, total: u64) -> u64 {
    ((u128::from(u) * u128::from(total)) >> 64) as u64
}

/// A weight from 0 to 1 in fixed point: to nearest, of two the even one.
#[inline(always)]
pub(in crate::sampling) fn fixed(weight: f32) -> u64 {
    /// Added to, it leaves no room for a fraction.
    const WHOLE: f64 = (1_u64 << 52) as f64;
    let scaled = f64::from(weight) * (1_u64 << FIXED) as f64;
    (scaled + WHOLE).to_bits() - WHOLE.to_bits()
}

/// The weights of logits of which the largest is `max`.
pub(in crate::sampling) struct Weights<'a> {
    pub law: Law,
    pub max: f32,
    pub x: &'a [f32],
    /// As many.
    pub weights: &'a mut [f32],
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        weigh(s, self.law, self.max, self.x, self.weights);
    }
}

#[inline(always)]
fn weigh<S: Simd>(s: S, law: Law, max: f32, x: &[f32], weights: &mut [f32]) {
    let [scale, rest] = law.scale.map(|x| s.splat_f32s(x));
    let (max, lowest) = (s.splat_f32s(max), s.splat_f32s(law.lowest));
    let lanes = S::F32_LANES;
    for (x, weight) in x.chunks(lanes).zip(weights.chunks_mut(lanes)) {
        let distance = s.max_f32s(lowest, s.sub_f32s(load(s, x), max));
        let power = exp2_product::<S, { range::NEAR }>(s, distance, scale, rest);
        store(s, weight, power);
    }
}

/// A weight added to the first is rounded to the upper half of its fixed point, in the lowest bits; what that left, in
/// units of the lower half, is rounded by the second.
const UPPER: f32 = 1.5 * (1 << (23 - FIXED / 2)) as f32;
const LOWER: f32 = 1.5 * (1 << 23) as f32;

/// The sums of weights, each rounded as [`fixed`] does it, of each [`STRETCH`] of tokens; those below min-p are none.
pub(super) struct Sums<'a> {
    pub law: Law,
    pub max: f32,
    pub x: &'a [f32],
    /// One for each stretch.
    pub sums: &'a mut [u64],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [floor, upper, lower] = [self.law.floor, UPPER, LOWER].map(|x| s.splat_f32s(x));
        let (zero, one) = (s.splat_f32s(0.0), s.splat_f32s((1_u64 << FIXED) as f32));
        let mut weights = [0.0; STRETCH];
        for (x, sum) in self.x.chunks(STRETCH).zip(self.sums) {
            weigh(s, self.law, self.max, x, &mut weights);
            weights[x.len()..].fill(0.0);
            let (mut uppers, mut lowers) = (s.splat_u32s(0), s.splat_u32s(0));
            for weight in weights.chunks_exact(S::F32_LANES) {
                let weight = load(s, weight);
                let weight = s.select_f32s(s.less_than_f32s(weight, floor), zero, weight);
                let above = s.add_f32s(weight, upper);
                let rest = s.sub_f32s(weight, s.sub_f32s(above, upper));
                let below = s.mul_add_f32s(rest, one, lower);
                uppers = s.add_u32s(uppers, s.transmute_u32s_f32s(above));
                lowers = s.add_u32s(lowers, s.transmute_u32s_f32s(below));
            }
            *sum = total::<S>(uppers, lowers);
        }
    }
}

/// What the bits of [`STRETCH`] weights' halves sum to.
#[inline(always)]
fn total<S: Simd>(uppers: S::u32s, lowers: S::u32s) -> u64 {
    let each = (STRETCH / S::F32_LANES) as u32;
    let sum = |lane: &u32, none: f32| lane.wrapping_sub(none.to_bits().wrapping_mul(each));
    let uppers: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&uppers));
    let lowers: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&lowers));
    let uppers: u64 = uppers.iter().map(|lane| u64::from(sum(lane, UPPER))).sum();
    let lowers = lowers.iter().map(|lane| i64::from(sum(lane, LOWER) as i32));
    (uppers << (FIXED / 2)).wrapping_add_signed(lowers.sum())
}
