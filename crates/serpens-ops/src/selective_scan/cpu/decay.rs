//! What one step does to the state: its decay exp(δ A), for a real or a complex A, and what it takes in of the input.

use crate::simd::{
    Exp2, LOG2_E, LOG2_E_REST, Simd, clamp, exp2_product, exp2_product_less_one, range, sin_cos,
};

/// The A of some numbers, as the decays of all steps take it.
#[derive(Clone, Copy)]
pub(super) struct Rates<V, const W: usize> {
    /// re A log2 e.
    high: [V; W],
    /// What that lacks: left out, the same error would be made at every step, and add up over a long memory.
    rest: [V; W],
    im: [V; W],
    /// 1 / re A, for inputs that are held.
    inverse: [V; W],
}

/// A real A nearer to zero than this stands for one that is: by no step does it grow or decay.
const LEAST: f32 = 1e-12;

impl<V: Copy, const W: usize> Rates<V, W> {
    #[inline(always)]
    pub(super) fn new<S: Simd<f32s = V>, const P: usize, const HELD: bool>(
        s: S,
        a: &[[V; W]; P],
    ) -> Self {
        let (log2_e, log2_e_rest) = (s.splat_f32s(LOG2_E), s.splat_f32s(LOG2_E_REST));
        let (mut high, mut rest, mut inverse) = (a[0], a[0], a[0]);
        for j in 0..W {
            // An infinity has no rest.
            let mut re = clamp(s, high[j], [-1e38, 1e38]);
            if HELD {
                let least = s.splat_f32s(LEAST);
                re = s.select_f32s(s.less_than_f32s(s.abs_f32s(re), least), least, re);
                inverse[j] = s.div_f32s(s.splat_f32s(1.0), re);
            }
            high[j] = s.mul_f32s(re, log2_e);
            let lacks = s.mul_add_f32s(re, log2_e, s.neg_f32s(high[j]));
            rest[j] = s.mul_add_f32s(re, log2_e_rest, lacks);
        }
        Self {
            high,
            rest,
            im: a[P - 1],
            inverse,
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

/// A step of a number: h = `decay` h + B times what it takes in.
pub(super) struct Transition<V, const P: usize> {
    pub decay: [V; P],
    /// Of an input that is held the weight, (exp(δ a) - 1) / a; that of any other is in what tiles read, δu for u.
    pub hold: V,
    /// The derivative of that by a.
    pub hold_slope: V,
}

impl<V: Copy, const P: usize> Transition<V, P> {
    /// Of number `j`.
    #[inline(always)]
    pub(super) fn new<S, const W: usize, const RANGE: u8, const HELD: bool>(
        s: S,
        delta: V,
        rates: &Rates<V, W>,
        j: usize,
    ) -> Self
    where
        S: Simd<f32s = V>,
    {
        if !HELD {
            return Self {
                decay: decay::<S, P, W, RANGE>(s, delta, rates, j),
                hold: delta,
                hold_slope: delta,
            };
        }
        let Exp2 {
            value,
            less_one,
            second,
            power,
        } = exp2_product_less_one::<S, RANGE>(s, delta, rates.high[j], rates.rest[j]);
        let hold = s.mul_f32s(less_one, rates.inverse[j]);
        // (δ exp(δ a) - hold) / a loses its digits where x = δ a is small. There it is δ (hold - δ φ) with
        // φ = (e^x - 1 - x) / x².
        let squared = s.splat_f32s(LOG2_E * LOG2_E);
        let far = s.mul_add_f32s(delta, value, s.neg_f32s(hold));
        let near = s.negate_mul_add_f32s(s.mul_f32s(delta, squared), second, hold);
        let is_near = s.equal_f32s(power, s.splat_f32s(1.0));
        let hold_slope = s.select_f32s(
            is_near,
            s.mul_f32s(near, delta),
            s.mul_f32s(far, rates.inverse[j]),
        );
        Self {
            decay: [value; P],
            hold,
            hold_slope,
        }
    }

    /// What it takes in of `input`: u where that is held, otherwise δu.
    #[inline(always)]
    pub(super) fn weigh<S: Simd<f32s = V>, const HELD: bool>(&self, s: S, input: V) -> V {
        if HELD {
            s.mul_f32s(self.hold, input)
        } else {
            input
        }
    }
}
