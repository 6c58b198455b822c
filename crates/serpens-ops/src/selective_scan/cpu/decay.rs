//! The decay of the state over one step, exp(δ A), for a real or a complex A.

use crate::simd::{LOG2_E, LOG2_E_REST, Simd, clamp, exp2_product, sin_cos};

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

/// Whether all |δ A| of some steps and numbers are small enough for [`decay`] to be `BOUNDED`, as they hardly ever are
/// not.
#[inline(always)]
pub(super) fn bounded<S: Simd>(s: S, delta: &[S::f32s], a: &[S::f32s]) -> bool {
    let product = s.mul_f32s(largest(s, delta), largest(s, a));
    let inside = s.less_than_or_equal_f32s(product, s.splat_f32s(80.0));
    let outside = s.select_f32s(inside, s.splat_f32s(0.0), s.splat_f32s(1.0));
    s.reduce_sum_f32s(outside) == 0.0
}

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
pub(super) fn decay<S: Simd, const P: usize, const W: usize, const BOUNDED: bool>(
    s: S,
    delta: S::f32s,
    rates: &Rates<S::f32s, W>,
    j: usize,
) -> [S::f32s; P] {
    let magnitude = exp2_product::<S, BOUNDED>(s, delta, rates.high[j], rates.rest[j]);
    let mut value = [magnitude; P];
    if P == 2 {
        let (sine, cosine) = sin_cos(s, s.mul_f32s(delta, rates.im[j]));
        value[0] = s.mul_f32s(magnitude, cosine);
        value[1] = s.mul_f32s(magnitude, sine);
    }
    value
}
