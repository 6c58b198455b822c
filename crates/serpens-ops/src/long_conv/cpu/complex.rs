//! Complex arithmetic on SIMD vectors.

use crate::simd::Simd;

/// A SIMD vector of complex numbers.
#[derive(Clone, Copy)]
pub(super) struct Complex<V> {
    pub re: V,
    pub im: V,
}

/// `a + b`
#[inline(always)]
pub(super) fn add<S: Simd>(s: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: s.add_f32s(a.re, b.re),
        im: s.add_f32s(a.im, b.im),
    }
}

/// `a - b`
#[inline(always)]
pub(super) fn sub<S: Simd>(s: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: s.sub_f32s(a.re, b.re),
        im: s.sub_f32s(a.im, b.im),
    }
}

/// `a + i·b`
#[inline(always)]
pub(super) fn add_i<S: Simd>(s: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: s.sub_f32s(a.re, b.im),
        im: s.add_f32s(a.im, b.re),
    }
}

/// `a - i·b`
#[inline(always)]
pub(super) fn sub_i<S: Simd>(s: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: s.add_f32s(a.re, b.im),
        im: s.sub_f32s(a.im, b.re),
    }
}

/// `a · b`
#[inline(always)]
pub(super) fn mul<S: Simd>(s: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: s.negate_mul_add_e_f32s(a.im, b.im, s.mul_f32s(a.re, b.re)),
        im: s.mul_add_e_f32s(a.im, b.re, s.mul_f32s(a.re, b.im)),
    }
}

/// The complex numbers of vector `v` of a row: real parts in the row's first half, imaginary parts in its second.
#[inline(always)]
pub(super) fn get<V: Copy>(row: &[V], v: usize) -> Complex<V> {
    Complex {
        re: row[v],
        im: row[row.len() / 2 + v],
    }
}

/// Writes what [`get`] reads.
#[inline(always)]
pub(super) fn set<V: Copy>(row: &mut [V], v: usize, value: Complex<V>) {
    let half = row.len() / 2;
    row[v] = value.re;
    row[half + v] = value.im;
}
