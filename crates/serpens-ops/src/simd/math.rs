//! Vector forms of the functions that the kernels need. Errors are against the exact value and are held by the tests.
//! Polynomials are minimax fits (Remez) of relative error on the reduced range.

use super::{LOG2_E, Simd};

/// Evaluates `c[0] + c[1] x + c[2] x² + …` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const K: usize>(s: S, x: S::f32s, c: [f32; K]) -> S::f32s {
    let mut sum = s.splat_f32s(c[K - 1]);
    for &coefficient in c[..K - 1].iter().rev() {
        sum = s.mul_add_f32s(sum, x, s.splat_f32s(coefficient));
    }
    sum
}

/// Adding it rounds a float of magnitude below 2^22 to an integer, left in the low mantissa bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// 2^x; relative error below 1.2e-7 for -125 ≤ x ≤ 127. Clamped outside: small results stop at 1.6e-38, large ones at
/// 2.4e38.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let x = s.min_f32s(s.splat_f32s(127.499), s.max_f32s(s.splat_f32s(-125.5), x));
    let shifted = s.add_f32s(x, s.splat_f32s(ROUND));
    let fraction = s.sub_f32s(x, s.sub_f32s(shifted, s.splat_f32s(ROUND)));
    let mantissa = polynomial(
        s,
        fraction,
        [
            1.000_000_000_554_166_3,
            std::f32::consts::LN_2,
            0.240_226_46,
            0.055_503_286,
            0.009_618_489,
            0.001_339_993_1,
            0.000_153_458_12,
        ],
    );
    // The integer part sits in the low bits of `shifted`; shifted left by 23 it adds to the exponent, and the bits of
    // ROUND fall out.
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(mantissa), exponent))
}

/// e^x; relative error below 2e-7 · max(1, |x|/2), clamped like [`exp2`].
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    exp2(s, s.mul_f32s(x, s.splat_f32s(LOG2_E)))
}

/// ln(x) for positive normal x; relative error below 3e-7 away from 1, absolute error below 1e-7 near it.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // x = m · 2^k with m in [√½, √2): subtracting the bits of √½ leaves k in the exponent field.
    let offset = s.splat_u32s(0x3f35_04f3);
    let bits = s.sub_u32s(s.transmute_u32s_f32s(x), offset);
    let exponent = s.wrapping_dyn_shr_u32s(
        s.add_u32s(bits, s.splat_u32s(0x4000_0000)),
        s.splat_u32s(23),
    );
    let mantissa_bits = s.add_u32s(s.and_u32s(bits, s.splat_u32s(0x007f_ffff)), offset);
    let m = s.transmute_f32s_u32s(mantissa_bits);
    // Integer to float: place it in the mantissa of 2^23 and subtract that, with the bias of 128 added above.
    let k = s.sub_f32s(
        s.transmute_f32s_u32s(s.or_u32s(exponent, s.splat_u32s(0x4b00_0000))),
        s.splat_f32s(8_388_608.0 + 128.0),
    );
    let one = s.splat_f32s(1.0);
    let ratio = s.div_f32s(s.sub_f32s(m, one), s.add_f32s(m, one));
    let square = s.mul_f32s(ratio, ratio);
    let series = polynomial(
        s,
        square,
        [
            0.999_999_999_310_664_9,
            0.333_334_1,
            0.199_873_97,
            0.149_628_25,
        ],
    );
    let log_m = s.mul_f32s(s.add_f32s(ratio, ratio), series);
    s.mul_add_f32s(k, s.splat_f32s(std::f32::consts::LN_2), log_m)
}

/// ln(1 + x) for 0 ≤ x ≤ 1; relative error below 3e-7.
#[inline(always)]
pub fn log1p<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // ln(1 + x) = 2 artanh(x / (2 + x)), and the argument is at most 1/3.
    let ratio = s.div_f32s(x, s.add_f32s(x, s.splat_f32s(2.0)));
    let square = s.mul_f32s(ratio, ratio);
    let series = polynomial(
        s,
        square,
        [
            1.000_000_003_960_524_4,
            0.333_331_58,
            0.200_124_55,
            0.139_803,
            0.140_891_67,
        ],
    );
    s.mul_f32s(s.add_f32s(ratio, ratio), series)
}

/// softplus(x) = ln(1 + e^x), without overflow; relative error below 6e-7 for x > -80.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let small = exp(s, s.neg_f32s(s.abs_f32s(x)));
    s.add_f32s(s.max_f32s(s.splat_f32s(0.0), x), log1p(s, small))
}

/// 1 / (1 + e^-x); relative error below 6e-7 for x > -80.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let one = s.splat_f32s(1.0);
    s.div_f32s(one, s.add_f32s(one, exp(s, s.neg_f32s(x))))
}

/// (sin x, cos x) for |x| ≤ 10^4; absolute error below 3e-7.
#[inline(always)]
pub fn sin_cos<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
    // x = q · π/2 + r with |r| ≤ π/4, π/2 split in three parts so that the subtraction stays exact (Cody and Waite).
    let shifted = s.mul_add_f32s(
        x,
        s.splat_f32s(std::f32::consts::FRAC_2_PI),
        s.splat_f32s(ROUND),
    );
    let q = s.sub_f32s(shifted, s.splat_f32s(ROUND));
    let quadrant = s.transmute_u32s_f32s(shifted);
    let mut r = s.negate_mul_add_f32s(q, s.splat_f32s(1.570_312_5), x);
    r = s.negate_mul_add_f32s(q, s.splat_f32s(4.837_513e-4), r);
    r = s.negate_mul_add_f32s(q, s.splat_f32s(7.549_79e-8), r);
    let square = s.mul_f32s(r, r);
    let sine = s.mul_f32s(
        r,
        polynomial(
            s,
            square,
            [
                0.999_999_996_926_342_8,
                -0.166_666_51,
                0.008_332_036,
                -0.000_195_040_22,
            ],
        ),
    );
    let cosine = polynomial(
        s,
        square,
        [
            0.999_999_999_952_600_5,
            -0.5,
            0.041_666_616,
            -0.001_388_661_9,
            2.437_993e-5,
        ],
    );
    let odd = s.equal_u32s(s.and_u32s(quadrant, s.splat_u32s(1)), s.splat_u32s(1));
    let sign_of_sine =
        s.wrapping_dyn_shl_u32s(s.and_u32s(quadrant, s.splat_u32s(2)), s.splat_u32s(30));
    let next = s.add_u32s(quadrant, s.splat_u32s(1));
    let sign_of_cosine =
        s.wrapping_dyn_shl_u32s(s.and_u32s(next, s.splat_u32s(2)), s.splat_u32s(30));
    (
        flip_sign(s, s.select_f32s(odd, cosine, sine), sign_of_sine),
        flip_sign(s, s.select_f32s(odd, sine, cosine), sign_of_cosine),
    )
}

/// `value` with its sign bit flipped where `sign` has its top bit set.
#[inline(always)]
fn flip_sign<S: Simd>(s: S, value: S::f32s, sign: S::u32s) -> S::f32s {
    s.transmute_f32s_u32s(s.xor_u32s(s.transmute_u32s_f32s(value), sign))
}
