//! Products of the spectra of two real sequences that share one complex transform.
//!
//! With `x = even + i·odd`, both real, and `X` its spectrum in bit-reversed order, frequencies `f` and `-f` lie in rows
//! that mirror each other within the block `2^k..2^(k+1)`; rows 0 and 1 (frequencies 0 and size/2) are their own
//! mirrors. [`separate`] turns each mirrored pair of rows into the spectra of `even` and of `odd` at `f`, [`multiply`]
//! multiplies those, and [`combine`] goes back to the spectrum of `even + i·odd`.

use super::complex::{Complex, add, add_i, get, mul, set};
use super::tile::{Row, WIDTH};
use crate::simd::{self, Simd, WithSimd};

/// From the spectrum of `even + i·odd` to twice the spectra of `even` (first row of each mirrored pair) and `odd`
/// (second).
pub(super) fn separate(rows: &mut [Row]) {
    simd::dispatch(Separate(rows));
}

/// The product of two separated spectra, added to what `out` holds if `add`.
pub(super) fn multiply(a: &[Row], b: &[Row], out: &mut [Row], add: bool) {
    simd::dispatch(Multiply { a, b, out, add });
}

/// From separated spectra to the spectrum of `even + i·odd`, divided by `4 · rows`: by 4 for a product of two separated
/// spectra, by the number of rows for the inverse transform to follow.
pub(super) fn combine(rows: &mut [Row]) {
    simd::dispatch(Combine(rows));
}

/// Calls `visit` with every mirrored pair of rows; `rows` holds `width` vectors per row.
#[inline(always)]
fn for_mirrored_pairs<V>(rows: &mut [V], width: usize, mut visit: impl FnMut(&mut [V], &mut [V])) {
    let mut rest = &mut rows[2 * width..];
    let mut block = 2 * width;
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut(block);
        let (front, back) = now.split_at_mut(block / 2);
        for (a, b) in front
            .chunks_exact_mut(width)
            .zip(back.chunks_exact_mut(width).rev())
        {
            visit(a, b);
        }
        rest = later;
        block *= 2;
    }
}

struct Separate<'a>(&'a mut [Row]);

impl WithSimd for Separate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows: &mut [S::f32s] = bytemuck::cast_slice_mut(self.0);
        let width = WIDTH / S::F32_LANES;
        for vector in &mut rows[..2 * width] {
            *vector = s.add_f32s(*vector, *vector);
        }
        for_mirrored_pairs(
            rows,
            width,
            #[inline(always)]
            |a, b| {
                for v in 0..width / 2 {
                    let (x, mirror) = (get(a, v), get(b, v));
                    let even = Complex {
                        re: s.add_f32s(x.re, mirror.re),
                        im: s.sub_f32s(x.im, mirror.im),
                    };
                    let odd = Complex {
                        re: s.add_f32s(x.im, mirror.im),
                        im: s.sub_f32s(mirror.re, x.re),
                    };
                    set(a, v, even);
                    set(b, v, odd);
                }
            },
        );
    }
}

struct Combine<'a>(&'a mut [Row]);

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let scale = s.splat_f32s(0.25 / self.0.len() as f32);
        let rows: &mut [S::f32s] = bytemuck::cast_slice_mut(self.0);
        let width = WIDTH / S::F32_LANES;
        for vector in &mut rows[..2 * width] {
            *vector = s.mul_f32s(*vector, scale);
        }
        for_mirrored_pairs(
            rows,
            width,
            #[inline(always)]
            |a, b| {
                for v in 0..width / 2 {
                    let (mut even, mut odd) = (get(a, v), get(b, v));
                    even = Complex {
                        re: s.mul_f32s(even.re, scale),
                        im: s.mul_f32s(even.im, scale),
                    };
                    odd = Complex {
                        re: s.mul_f32s(odd.re, scale),
                        im: s.mul_f32s(odd.im, scale),
                    };
                    let conjugate = Complex {
                        re: s.add_f32s(even.re, odd.im),
                        im: s.sub_f32s(odd.re, even.im),
                    };
                    set(a, v, add_i(s, even, odd));
                    set(b, v, conjugate);
                }
            },
        );
    }
}

struct Multiply<'a> {
    a: &'a [Row],
    b: &'a [Row],
    out: &'a mut [Row],
    add: bool,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let width = WIDTH / S::F32_LANES;
        let (a_real, a) = bytemuck::cast_slice::<_, S::f32s>(self.a).split_at(2 * width);
        let (b_real, b) = bytemuck::cast_slice::<_, S::f32s>(self.b).split_at(2 * width);
        let (out_real, out) =
            bytemuck::cast_slice_mut::<_, S::f32s>(self.out).split_at_mut(2 * width);
        for ((out, a), b) in out_real.iter_mut().zip(a_real).zip(b_real) {
            let product = s.mul_f32s(*a, *b);
            *out = if self.add {
                s.add_f32s(*out, product)
            } else {
                product
            };
        }
        let rows = out
            .chunks_exact_mut(width)
            .zip(a.chunks_exact(width))
            .zip(b.chunks_exact(width));
        for ((out, a), b) in rows {
            for v in 0..width / 2 {
                let product = mul(s, get(a, v), get(b, v));
                set(
                    out,
                    v,
                    if self.add {
                        add(s, get(out, v), product)
                    } else {
                        product
                    },
                );
            }
        }
    }
}
