//! The convolution by its definition, for sequences so short that a Fourier transform does not pay.

use super::tile::{Row, WIDTH};
use crate::simd::{self, Simd, WithSimd};

/// Results computed together; they share every load of `k` and stay in registers.
pub(super) const BLOCK: usize = 8;

/// `out[t] = Σ_{s≤t} k[s] · u[t-s]` in every lane, added to what `out` holds if `add`.
/// All three have the same number of rows, a multiple of [`BLOCK`].
pub(super) fn convolve(k: &[Row], u: &[Row], out: &mut [Row], add: bool) {
    simd::dispatch(Convolve { k, u, out, add });
}

struct Convolve<'a> {
    k: &'a [Row],
    u: &'a [Row],
    out: &'a mut [Row],
    add: bool,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let vectors = WIDTH / S::F32_LANES; // per row
        let k: &[S::f32s] = bytemuck::cast_slice(self.k);
        let u: &[S::f32s] = bytemuck::cast_slice(self.u);
        let out: &mut [S::f32s] = bytemuck::cast_slice_mut(self.out);
        for (block, out) in out.chunks_exact_mut(BLOCK * vectors).enumerate() {
            let first = block * BLOCK;
            for v in 0..vectors {
                let mut sums = [s.splat_f32s(0.0); BLOCK];
                // Lags for which all of the block's results have a term.
                for lag in 0..=first {
                    let ks = k[lag * vectors + v];
                    let u = &u[(first - lag) * vectors..][..BLOCK * vectors];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = s.mul_add_e_f32s(ks, u[i * vectors + v], *sum);
                    }
                }
                // The triangle of lags that only the block's later results reach.
                for lag in 1..BLOCK {
                    let ks = k[(first + lag) * vectors + v];
                    for i in lag..BLOCK {
                        sums[i] = s.mul_add_e_f32s(ks, u[(i - lag) * vectors + v], sums[i]);
                    }
                }
                for (i, sum) in sums.into_iter().enumerate() {
                    let out = &mut out[i * vectors + v];
                    *out = if self.add { s.add_f32s(*out, sum) } else { sum };
                }
            }
        }
    }
}
