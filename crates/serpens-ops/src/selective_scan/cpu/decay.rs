//! The decay of the state over one step, exp(δ A), for a real or a complex A.

use crate::simd::{LOG2_E, LOG2_E_REST, Simd, clamp, exp2_product, range, sin_cos};

/// The A of some numbers, as the decays of all steps take it.
#[derive(Clone, Copy)]
pub(super) struct Rates<V, const W: usize> {
    /// re A log2 e.
    high: [V; W],
    /// What that lacks: left out, the same error would be made at every step, and add up over a long memory.
    rest: [V; W],
    im: [V; W],
}

impl<V: Copy, const W: usize> Rates<V, W> {
    #[inline(always)]
    pub(super) fn new<S: Simd<f32s = V>, const P: usize>(s: S, a: &[[V; W]; P]) -> Self {
        let (log2_e, log2_e_rest) = (s.splat_f32s(LOG2_E), s.splat_f32s(LOG2_E_REST));
        let (mut high, mut rest) = (a[0], a[0]);
        for (high, rest) in high.iter_mut().zip(&mut rest) {
            // An infinity has no rest.
            let re = clamp(s, *high, [-1e38, 1e38]);
            *high = s.mul_f32s(re, log2_e);
            let lacks = s.mul_add_f32s(re, log2_e, s.neg_f32s(*high));
            *rest = s.mul_add_f32s(re, log2_e_rest, lacks);
        }
        Self {
            high,
            rest,
            im: a[P - 1],
        }
    }
}

/// The [`range`] of all δ A of some steps and numbers: hardly ever another than `NEAR`, or `FAR` where tokens are to be
/// forgotten.
#[inline(always)]
pub(super) fn range_of<S: Simd>(s: S, delta: &[S::f32s], a: &[S::f32s]) -> u8 {
    let product = s.mul_f32s(largest(s, delta), largest(s, a));
    let [near, far] =
        [80.0, 1e11].map(|bound| s.less_than_or_equal_f32s(product, s.splat_f32s(bound)));
    let beyond = s.select_f32s(far, s.splat_f32s(1.0), s.splat_f32s(64.0));
    // More than any number of lanes that are merely far.
    let sum = s.reduce_sum_f32s(s.select_f32s(near, s.splat_f32s(0.0), beyond));
    match sum {
        0.0 => range::NEAR,
        1.0..64.0 => range::FAR,
        _ => range::ANY,
    }
}

/// Runs `$body` with the constant `$range` that `$value` is.
macro_rules! for_range {
    ($value:expr, |$range:ident| $body:expr) => {
        match $value {
            $crate::simd::range::NEAR => {
                const $range: u8 = $crate::simd::range::NEAR;
                $body
            }
            $crate::simd::range::FAR => {
                const $range: u8 = $crate::simd::range::FAR;
                $body
            }
            _ => {
                const $range: u8 = $crate::simd::range::ANY;
                $body
            }
        }
    };
}
pub(super) use for_range;

/// The largest |x|, or NaN where there is one.
#[inline(always)]
fn largest<S: Simd>(s: S, x: &[S::f32s]) -> S::f32s {
    let mut largest = s.splat_u32s(0);
    for &x in x {
        // As integers, magnitudes are in order too, and a NaN is the largest.
        largest = s.max_u32s(largest, s.transmute_u32s_f32s(s.abs_f32s(x)));
    }
    s.transmute_f32s_u32s(largest)
}

/// exp(δ a) of number `j`, the factor by which it decays in a step.
#[inline(always)]
pub(super) fn decay<S: Simd, const P: usize, const W: usize, const RANGE: u8>(
    s: S,
    delta: S::f32s,
    rates: &Rates<S::f32s, W>,
    j: usize,
) -> [S::f32s; P] {
    let magnitude = exp2_product::<S, RANGE>(s, delta, rates.high[j], rates.rest[j]);
    let mut value = [magnitude; P];
    if P == 2 {
        let (sine, cosine) = sin_cos(s, s.mul_f32s(delta, rates.im[j]));
        value[0] = s.mul_f32s(magnitude, cosine);
        value[1] = s.mul_f32s(magnitude, sine);
    }
    value
}
