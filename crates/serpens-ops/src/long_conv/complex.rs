//! Complex arithmetic on SIMD vectors.

use pulp::Simd;

/// A SIMD vector of complex numbers.
#[derive(Clone, Copy)]
pub(super) struct Complex<V> {
    pub re: V,
    pub im: V,
}

/// `a + b`
#[inline(always)]
pub(super) fn add<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: simd.add_f32s(a.re, b.re),
        im: simd.add_f32s(a.im, b.im),
    }
}

/// `a - b`
#[inline(always)]
pub(super) fn sub<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: simd.sub_f32s(a.re, b.re),
        im: simd.sub_f32s(a.im, b.im),
    }
}

/// `a + i·b`
#[inline(always)]
pub(super) fn add_i<S: Simd>(
    simd: S,
    a: Complex<S::f32s>,
    b: Complex<S::f32s>,
) -> Complex<S::f32s> {
    Complex {
        re: simd.sub_f32s(a.re, b.im),
        im: simd.add_f32s(a.im, b.re),
    }
}

/// `a - i·b`
#[inline(always)]
pub(super) fn sub_i<S: Simd>(
    simd: S,
    a: Complex<S::f32s>,
    b: Complex<S::f32s>,
) -> Complex<S::f32s> {
    Complex {
        re: simd.add_f32s(a.re, b.im),
        im: simd.sub_f32s(a.im, b.re),
    }
}

/// `a · b`
#[inline(always)]
pub(super) fn mul<S: Simd>(simd: S, a: Complex<S::f32s>, b: Complex<S::f32s>) -> Complex<S::f32s> {
    Complex {
        re: simd.negate_mul_add_e_f32s(a.im, b.im, simd.mul_f32s(a.re, b.re)),
        im: simd.mul_add_e_f32s(a.im, b.re, simd.mul_f32s(a.re, b.im)),
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
