//! The decay of the state over one step, exp(δ A), for a real or a complex A.

use crate::simd::{LOG2_E, Simd, sin_cos};

/// e^x; relative error below 1.2e-7 for |x| ≤ 20 and 4e-7 for -87 ≤ x ≤ 88, clamped outside.
///
/// Unlike an exp2 of x log2 e it does not round that product. With log2 e multiplied into A beforehand the error would
/// be the same one at every step, and add up over a long memory.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    /// Adding it rounds to an integer, which is left in the low bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    /// Minimax fit of e^r = 1 + r + r² q(r) for |r| ≤ ln 2 / 2, highest power first.
    const Q: [f32; 5] = [
        1.381_461_3e-3,
        8.368_71e-3,
        4.166_839e-2,
        0.166_665_21,
        0.499_999_94,
    ];
    let x = s.min_f32s(s.splat_f32s(88.0), s.max_f32s(s.splat_f32s(-87.0), x));
    let shifted = s.mul_add_f32s(x, s.splat_f32s(LOG2_E), s.splat_f32s(ROUND));
    let integer = s.sub_f32s(shifted, s.splat_f32s(ROUND));
    let r = s.negate_mul_add_f32s(integer, s.splat_f32s(std::f32::consts::LN_2), x);
    let mut sum = s.splat_f32s(Q[0]);
    for coefficient in [Q[1], Q[2], Q[3], Q[4], 1.0, 1.0] {
        sum = s.mul_add_f32s(sum, r, s.splat_f32s(coefficient));
    }
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(sum), exponent))
}

/// exp(δ a), the factor by which a number of the state decays in a step.
#[inline(always)]
pub(super) fn decay<S: Simd, const P: usize>(
    s: S,
    delta: S::f32s,
    a: [S::f32s; P],
) -> [S::f32s; P] {
    let magnitude = exp(s, s.mul_f32s(delta, a[0]));
    let mut value = [magnitude; P];
    if P == 2 {
        let (sine, cosine) = sin_cos(s, s.mul_f32s(delta, a[1]));
        value[0] = s.mul_f32s(magnitude, cosine);
        value[1] = s.mul_f32s(magnitude, sine);
    }
    value
}
