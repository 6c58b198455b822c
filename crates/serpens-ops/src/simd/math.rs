//! Vector forms of the functions that the kernels need. Errors are against the exact value and are held by the tests.
//! Polynomials are minimax fits (Remez) of relative error on the reduced range.

use super::Simd;

/// Evaluates `c[0] + c[1] x + c[2] x² + …` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const K: usize>(s: S, x: S::f32s, c: [f32; K]) -> S::f32s {
    let mut sum = s.splat_f32s(c[K - 1]);
    for &coefficient in c[..K - 1].iter().rev() {
        sum = s.mul_add_f32s(sum, x, s.splat_f32s(coefficient));
    }
    sum
}

/// Adding it rounds a float of magnitude below 2^21 to an integer, left in the low mantissa bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// As [`ROUND`], with the bias of a float's exponent added: shifted left by [`MANTISSA`] the sum is 2 to that integer.
const ROUND_BIASED: f32 = ROUND + 127.0;

/// Bits of a float below its exponent.
const MANTISSA: u32 = 23;

/// log2(e) is this and [`LOG2_E_REST`].
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// What [`LOG2_E`] lacks.
pub(crate) const LOG2_E_REST: f32 = 1.925_963e-8;

/// `x` between two bounds; NaN stays.
#[inline(always)]
pub(crate) fn clamp<S: Simd>(s: S, x: S::f32s, [low, high]: [f32; 2]) -> S::f32s {
    let inside = s.min_f32s(s.splat_f32s(high), s.max_f32s(s.splat_f32s(low), x));
    if S::F32_LANES == 1 {
        // Vectors keep a NaN in the second operand, the portable form drops it.
        s.select_f32s(s.equal_f32s(x, x), inside, x)
    } else {
        inside
    }
}

/// The coefficients of 2^f for |f| ≤ ½.
pub(crate) const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_46,
    0.055_503_286,
    0.009_618_489,
    0.001_339_993_1,
    0.000_153_458_12,
];

/// How far from 0 the exponents of [`exp2_product`] may lie: the nearer the faster.
pub mod range {
    /// Within ±120.
    pub const NEAR: u8 = 0;
    /// Within ±10^12.
    pub const FAR: u8 = 1;
    /// Anywhere, infinities and NaN among them.
    pub const ANY: u8 = 2;
}

/// 2^(x (a + rest)), where `rest` is at most a rounding of a and no product is rounded; relative error below 1.1e-7.
/// The caller knows the [`range`] of the exponent. Beyond `NEAR` the result is 0 below 2^-126.5 and ∞ from 2^127.5 on,
/// and NaN stays. Wherever several ranges are right they agree: `NEAR` may round an exponent's half to the other side.
#[inline(always)]
pub fn exp2_product<S: Simd, const RANGE: u8>(
    s: S,
    x: S::f32s,
    a: S::f32s,
    rest: S::f32s,
) -> S::f32s {
    let near = RANGE == range::NEAR;
    let round = if near { ROUND } else { ROUND_BIASED };
    let (power, fraction) = split_product::<S, RANGE>(s, x, a, rest, round);
    let mantissa = polynomial(s, fraction, EXP2);
    if near {
        s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(mantissa), power))
    } else {
        s.mul_f32s(mantissa, s.transmute_f32s_u32s(power))
    }
}

/// [`exp2_product`] beside what it exceeds 1 by, as exact where that is small.
pub(crate) struct Exp2<V> {
    pub value: V,
    /// 2^y - 1; relative error below 3e-7.
    pub less_one: V,
    /// (2^f - 1 - f ln 2) / f² of the exponent's fraction f, between ±½.
    pub second: V,
    /// 2^(y - f), which is 1 where f is the exponent itself.
    pub power: V,
}

/// As [`exp2_product`].
#[inline(always)]
pub(crate) fn exp2_product_less_one<S: Simd, const RANGE: u8>(
    s: S,
    x: S::f32s,
    a: S::f32s,
    rest: S::f32s,
) -> Exp2<S::f32s> {
    let (power, fraction) = split_product::<S, RANGE>(s, x, a, rest, ROUND_BIASED);
    let power = s.transmute_f32s_u32s(power);
    let [one, first, higher @ ..] = EXP2;
    let one = s.splat_f32s(one);
    let second = polynomial(s, fraction, higher);
    let slope = s.mul_add_f32s(second, fraction, s.splat_f32s(first));
    let value = s.mul_f32s(power, s.mul_add_f32s(slope, fraction, one));
    let less_one = s.mul_add_f32s(power, s.mul_f32s(slope, fraction), s.sub_f32s(power, one));
    // Where the power is ∞ the sum may be one of ∞ and -∞.
    let less_one = if RANGE == range::NEAR {
        less_one
    } else {
        let small = s.less_than_f32s(value, s.splat_f32s(4.0));
        s.select_f32s(small, less_one, s.sub_f32s(value, one))
    };
    Exp2 {
        value,
        less_one,
        second,
        power,
    }
}

/// The exponent of [`exp2_product`] as an integer and what lies above or below that: the integer in the place of a
/// float's exponent, with a bias that `round` may add, and the fraction.
#[inline(always)]
fn split_product<S: Simd, const RANGE: u8>(
    s: S,
    x: S::f32s,
    a: S::f32s,
    rest: S::f32s,
    round: f32,
) -> (S::u32s, S::f32s) {
    let round = s.splat_f32s(round);
    let (low, high) = (ROUND, ROUND + 255.0);
    let any = |x, bounds| {
        if RANGE == range::ANY {
            clamp(s, x, bounds)
        } else {
            x
        }
    };
    // Infinity times no rest would be NaN.
    let x = any(x, [f32::MIN, f32::MAX]);
    let shifted = any(s.mul_add_f32s(x, a, round), [low, high]);
    let fraction = s.mul_add_f32s(x, a, s.sub_f32s(round, shifted));
    let fraction = s.mul_add_f32s(x, rest, any(fraction, [-1.0, 1.0]));
    let fraction = any(fraction, [-1.0, 1.0]);
    // Far away the fraction is one no more, but its polynomial is still positive and finite: 0 or ∞ times that.
    let shifted = if RANGE == range::FAR {
        s.min_f32s(s.splat_f32s(high), s.max_f32s(s.splat_f32s(low), shifted))
    } else {
        shifted
    };
    let power = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(MANTISSA));
    (power, fraction)
}

/// e^x; relative error below 1.1e-7 where it is a normal number. 0 below about the smallest of these, ∞ beyond the
/// largest, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // The integer -127 for the lower bound, 128 for the upper one: factors of 0 and ∞.
    let x = clamp(s, x, [-87.68, 89.0]);
    let (log2_e, rest) = (s.splat_f32s(LOG2_E), s.splat_f32s(LOG2_E_REST));
    let round = s.splat_f32s(ROUND_BIASED);
    // The integer below, so that one factor reaches every normal result; by less than a half, lest what rounds to the
    // tie at the smallest of them goes to 0.
    let middle = s.mul_add_f32s(x, log2_e, s.splat_f32s(-0.49999));
    let shifted = s.add_f32s(middle, round);
    let fraction = s.mul_add_f32s(x, log2_e, s.sub_f32s(round, shifted));
    // 2^f for 0 ≤ f ≤ 1.
    let coefficients = [
        1.0,
        std::f32::consts::LN_2,
        0.240_227_21,
        0.055_496_022,
        0.009_652_195_5,
        0.001_269_216_6,
        0.000_208_179_15,
    ];
    let mantissa = polynomial(s, s.mul_add_f32s(x, rest, fraction), coefficients);
    let power = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(MANTISSA));
    s.mul_f32s(mantissa, s.transmute_f32s_u32s(power))
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

/// ln(1 + x) for 0 ≤ x ≤ 1; relative error below 2e-7.
#[inline(always)]
pub fn log1p<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // ln(1 + x) = 2 artanh(x / (2 + x)), and the argument is at most 1/3.
    let ratio = s.div_f32s(x, s.add_f32s(x, s.splat_f32s(2.0)));
    // What is added is far below the rounding of 1, and keeps what tiny arguments give from slow subnormal numbers.
    let square = s.mul_add_f32s(ratio, ratio, s.splat_f32s(1e-30));
    let coefficients = [0.333_331_58, 0.200_124_55, 0.139_803, 0.140_891_67];
    let series = s.mul_f32s(square, polynomial(s, square, coefficients));
    let double = s.add_f32s(ratio, ratio);
    s.mul_add_f32s(double, series, double)
}

/// softplus(x) = ln(1 + e^x) and its slope, the logistic function of x; relative error of both below 6e-7 where they
/// are normal numbers.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let (zero, one) = (s.splat_f32s(0.0), s.splat_f32s(1.0));
    let small = exp(s, s.neg_f32s(s.abs_f32s(x)));
    let value = s.add_f32s(s.max_f32s(zero, x), log1p(s, small));
    let high = s.div_f32s(one, s.add_f32s(one, small));
    let low = s.mul_f32s(small, high);
    let negative = s.less_than_f32s(x, zero);
    (value, s.select_f32s(negative, low, high))
}

/// The bounds of what [`logistic`] takes. Beyond the upper one its power is nothing beside 1.
const LOGISTIC: [f32; 2] = [-89.5, 80.0];

/// Two numbers whose quotient is 1 / (1 + e^-x), the first of them between ½ and 1; 0 at the lower of the bounds.
///
/// e^-x is 2^n p / q with p = c + h and q = c - h, where h is a quarter of the exponent's fraction and
/// c = h coth(2 ln(2) h). As c is even it takes half of the power's polynomial, and the quotient is 1 / (1 + 2^n p / q)
/// = q / (q + 2^n p), a division that is needed anyway.
#[inline(always)]
fn logistic<S: Simd>(s: S, x: S::f32s) -> [S::f32s; 2] {
    let (log2_e, rest) = (-LOG2_E / 4.0, -LOG2_E_REST / 4.0);
    // Rounds to quarters. As exponents reach one beyond the largest float's, p is doubled; at the lower bound the
    // integer is 129, a factor of ∞.
    let round = s.splat_f32s((ROUND_BIASED - 1.0) / 4.0);
    let shifted = s.mul_add_f32s(x, s.splat_f32s(log2_e), round);
    let h = s.mul_add_f32s(x, s.splat_f32s(log2_e), s.sub_f32s(round, shifted));
    let h = s.mul_add_f32s(x, s.splat_f32s(rest), h);
    let c = polynomial(
        s,
        s.mul_f32s(h, h),
        [0.721_347_5, 0.462_099_1, -0.059_069_075],
    );
    let (p, q) = (s.add_f32s(c, h), s.sub_f32s(c, h));
    let power = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(MANTISSA));
    let sum = s.mul_add_f32s(s.add_f32s(p, p), s.transmute_f32s_u32s(power), q);
    [q, sum]
}

/// 1 / (1 + e^-x); relative error below 3e-7 where it is a normal number.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let [above, below] = logistic(s, clamp(s, x, LOGISTIC));
    s.div_f32s(above, below)
}

/// x / (1 + e^-x); relative error below 3e-7 where e^-x is at most the largest number, and nothing is left far beyond.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let [above, below] = logistic(s, clamp(s, x, LOGISTIC));
    s.div_f32s(s.mul_f32s(x, above), below)
}

/// [`silu`] and its slope, σ(x) + silu(x) σ(-x) where σ(x) = 1 / (1 + e^-x); the slope's error is below 3e-7 of the two
/// terms' sizes, which cancel beside its zero.
#[inline(always)]
pub fn silu_and_slope<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
    // Of σ(x) and σ(-x) the smaller one, from which the other loses nothing; both of NaN make numbers, times x NaN.
    let negative = s.neg_f32s(s.abs_f32s(x));
    let [above, below] = logistic(s, s.max_f32s(s.splat_f32s(LOGISTIC[0]), negative));
    let small = s.div_f32s(above, below);
    let large = s.sub_f32s(s.splat_f32s(1.0), small);
    let sigmoid = s.select_f32s(s.less_than_f32s(x, s.splat_f32s(0.0)), small, large);
    let slope = s.mul_add_f32s(s.mul_f32s(x, small), large, sigmoid);
    (s.mul_f32s(x, sigmoid), slope)
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
