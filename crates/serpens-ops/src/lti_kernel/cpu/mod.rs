//! The kernel and its gradients on the processor: lanes and threads over channels.
//!
//! Time goes in blocks of 16: Ā^(t0+j) = Ā^t0 · Ā^j, with the second factor from a table and the first folded into the
//! weight, which leaves one complex multiply-add for each (t, channel, n).

mod powers;
pub mod recurrence;
mod zero_order_hold;

use rayon::prelude::*;
use serpens_core::MatMut;

use self::powers::{BLOCK, Lanes, Powers, TILE};
use self::zero_order_hold::C64;
use super::{LtiDims, LtiSystem};
use crate::simd::{self, Simd, WithSimd};

/// A system on plain slices.
pub type System<'a> = LtiSystem<&'a [f32]>;

/// Where the gradients go, in the shapes of what they belong to. All are overwritten.
pub type Grads<'a> = LtiSystem<&'a mut [f32]>;

/// The sizes, after a check that all values are there.
fn checked(system: &System<'_>) -> LtiDims {
    let dims = system.dims();
    for (role, values) in system.iter() {
        assert_eq!(values.len(), (role.shape)(&dims).count(), "{}", role.name);
    }
    dims
}

/// Writes the kernel K, (length, channels).
///
/// # Panics
/// If sizes do not fit.
pub fn forward(system: &System<'_>, length: usize, k: &mut [f32]) {
    let LtiDims { channels, .. } = checked(system);
    assert_eq!(k.len(), length * channels, "K");
    if k.is_empty() {
        return;
    }
    let out = MatMut::dense(k, channels);
    (0..channels.div_ceil(TILE))
        .into_par_iter()
        .for_each(|tile| {
            let first = tile * TILE;
            let last = channels.min(first + TILE);
            let mut powers = Powers::new(system, first);
            let mut sums = [[0.0; TILE]; BLOCK];
            for start in (0..length).step_by(BLOCK) {
                simd::dispatch(BlockOfKernel {
                    powers: &powers,
                    scale: system.scale(),
                    sums: &mut sums,
                });
                for (t, sums) in (start..length).zip(&sums) {
                    // SAFETY: each task writes the columns of its own tile.
                    let row = unsafe { out.part(t, first, last) };
                    row.copy_from_slice(&sums[..last - first]);
                }
                powers.advance();
            }
            if let Some(d) = system.d {
                // SAFETY: as above.
                let row = unsafe { out.part(0, first, last) };
                row.iter_mut()
                    .zip(&d[first..last])
                    .for_each(|(k, d)| *k += d);
            }
        });
}

/// Σ_n scale Re(weight Ā^t) for the steps t of a block.
struct BlockOfKernel<'a> {
    powers: &'a Powers,
    scale: f64,
    sums: &'a mut [Lanes; BLOCK],
}

impl WithSimd for BlockOfKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        *self.sums = [[0.0; TILE]; BLOCK];
        let powers = self.powers;
        for ((states, table), front) in powers.states.iter().zip(&powers.table).zip(&powers.front) {
            let (mut re, mut im) = ([0.0; TILE], [0.0; TILE]);
            for lane in 0..TILE {
                let q = states[lane].weight() * front[lane] * self.scale;
                (re[lane], im[lane]) = (q.re as f32, q.im as f32);
            }
            for from in (0..TILE).step_by(S::F32_LANES) {
                let (re, im) = (simd::load(s, &re[from..]), simd::load(s, &im[from..]));
                for (sum, (pr, pi)) in self.sums.iter_mut().zip(table) {
                    let mut v = simd::load(s, &sum[from..]);
                    v = s.mul_add_f32s(re, simd::load(s, &pr[from..]), v);
                    v = s.negate_mul_add_f32s(im, simd::load(s, &pi[from..]), v);
                    simd::store(s, &mut sum[from..], v);
                }
            }
        }
    }
}

/// Writes every gradient from that of the kernel, (length, channels).
///
/// # Panics
/// If sizes do not fit.
pub fn backward(system: &System<'_>, length: usize, dk: &[f32], grads: Grads<'_>) {
    let LtiDims { channels, state } = checked(system);
    assert_eq!(dk.len(), length * channels, "dK");
    for (role, grad) in grads.iter() {
        let count = (role.shape)(&system.dims()).count();
        assert_eq!(grad.len(), count, "the gradient of {}", role.name);
    }
    if let Some(dd) = grads.d {
        match dk.get(..channels) {
            Some(first) => dd.copy_from_slice(first),
            None => dd.fill(0.0),
        }
    }
    let tiles: Vec<Vec<(C64, C64)>> = (0..channels.div_ceil(TILE))
        .into_par_iter()
        .map(|tile| tile_sums(system, length, dk, tile * TILE))
        .collect();
    let mut complex = [
        (grads.a, grads.a_im),
        (grads.b, grads.b_im),
        (grads.c, grads.c_im),
    ];
    for e in 0..channels {
        let mut dt = 0.0;
        for i in 0..state {
            let (s0, s1) = tiles[e / TILE][i * TILE + e % TILE];
            let g = system.discretise(e, i).gradients(system.scale(), s0, s1);
            dt += g.dt;
            for ((re, im), value) in complex.iter_mut().zip([g.a, g.b, g.c]) {
                re[e * state + i] = value.re as f32;
                if let Some(im) = im {
                    im[e * state + i] = -value.im as f32;
                }
            }
        }
        grads.dt[e] = dt as f32;
    }
}

/// (S0, S1) of the states of one tile: (N, TILE).
fn tile_sums(system: &System<'_>, length: usize, dk: &[f32], first: usize) -> Vec<(C64, C64)> {
    let LtiDims { channels, state } = system.dims();
    let last = channels.min(first + TILE);
    let mut powers = Powers::new(system, first);
    let mut sums = vec![(C64::default(), C64::default()); state * TILE];
    for start in (0..length).step_by(BLOCK) {
        let mut rows = [[0.0; TILE]; BLOCK];
        for (t, row) in (start..length).zip(&mut rows) {
            let from = t * channels;
            row[..last - first].copy_from_slice(&dk[from + first..from + last]);
        }
        simd::dispatch(BlockOfSums {
            powers: &powers,
            rows: &rows,
            start: start as f64,
            sums: &mut sums,
        });
        powers.advance();
    }
    sums
}

/// Adds a block's part of Σ_t dK_t Ā^t and Σ_t t dK_t Ā^t.
struct BlockOfSums<'a> {
    powers: &'a Powers,
    rows: &'a [Lanes; BLOCK],
    start: f64,
    sums: &'a mut [(C64, C64)],
}

impl WithSimd for BlockOfSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let states = self.sums.chunks_exact_mut(TILE);
        for ((sums, table), front) in states.zip(&self.powers.table).zip(&self.powers.front) {
            // Σ_j dK P_j and Σ_j j dK P_j, real and imaginary.
            let mut local = [[0.0; TILE]; 4];
            for from in (0..TILE).step_by(S::F32_LANES) {
                let mut v = [s.splat_f32s(0.0); 4];
                for (j, (row, (re, im))) in self.rows.iter().zip(table).enumerate() {
                    let dk = simd::load(s, &row[from..]);
                    let weighted = s.mul_f32s(dk, s.splat_f32s(j as f32));
                    let (re, im) = (simd::load(s, &re[from..]), simd::load(s, &im[from..]));
                    v[0] = s.mul_add_f32s(dk, re, v[0]);
                    v[1] = s.mul_add_f32s(dk, im, v[1]);
                    v[2] = s.mul_add_f32s(weighted, re, v[2]);
                    v[3] = s.mul_add_f32s(weighted, im, v[3]);
                }
                for (local, v) in local.iter_mut().zip(v) {
                    simd::store(s, &mut local[from..], v);
                }
            }
            for (lane, (s0, s1)) in sums.iter_mut().enumerate() {
                let part = |i: usize| C64 {
                    re: f64::from(local[i][lane]),
                    im: f64::from(local[i + 1][lane]),
                };
                let zeroth = front[lane] * part(0);
                *s0 = *s0 + zeroth;
                *s1 = *s1 + zeroth * self.start + front[lane] * part(2);
            }
        }
    }
}
