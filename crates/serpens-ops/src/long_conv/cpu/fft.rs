//! The Fourier transform of a tile: 16 complex transforms at once, one per SIMD lane.
//!
//! Decimation in frequency going in, decimation in time coming back: the spectrum stays in bit-reversed order in
//! between, so nothing is ever permuted. Two stages are fused into one radix-4 pass. Blocks that outgrow the
//! first-level cache are split depth first.

use std::f64::consts::TAU;
use std::sync::OnceLock;

use super::complex::{Complex, add, add_i, get, mul, set, sub, sub_i};
use super::tile::{Row, WIDTH};
use crate::simd::{self, Simd, WithSimd};

/// Rows up to which a block is transformed pass by pass: 16 KiB, half a first-level cache.
const LEAF: usize = 128;

/// `w^j, w^2j, w^3j` as `(re, im)` pairs, with `w = exp(-2πi/block)`.
type Twiddle = [f32; 6];

/// The twiddle factors of one transform size; made once per process and size.
#[derive(Debug)]
pub(super) struct TransformPlan {
    /// Pass `p` works on blocks of `size / 4^p` rows.
    passes: Vec<Vec<Twiddle>>,
}

impl TransformPlan {
    /// The plan for `size` rows, a power of two of at least 4.
    pub(super) fn get(size: usize) -> &'static TransformPlan {
        static PLANS: [OnceLock<TransformPlan>; usize::BITS as usize] =
            [const { OnceLock::new() }; usize::BITS as usize];
        debug_assert!(size.is_power_of_two() && size >= 4);
        PLANS[size.trailing_zeros() as usize].get_or_init(|| TransformPlan::new(size))
    }

    fn new(size: usize) -> TransformPlan {
        let blocks = std::iter::successors(Some(size), |block| Some(block / 4))
            .take_while(|&block| block >= 4);
        let twiddle = |block: usize, j: usize| {
            let mut factors = [0.0; 6];
            for power in 1..=3 {
                let (sin, cos) = (-TAU * (power * j) as f64 / block as f64).sin_cos();
                factors[2 * power - 2] = cos as f32;
                factors[2 * power - 1] = sin as f32;
            }
            factors
        };
        TransformPlan {
            passes: blocks
                .map(|block| (0..block / 4).map(|j| twiddle(block, j)).collect())
                .collect(),
        }
    }

    /// `X[f] = Σ_t x[t] exp(-2πi·f·t/size)` in place, leaving frequency `f` in the row whose index is `f` with its bits
    /// reversed.
    pub(super) fn forward(&self, rows: &mut [Row]) {
        forward(&self.passes, rows);
    }

    /// The inverse of [`TransformPlan::forward`], times the number of rows.
    pub(super) fn inverse(&self, rows: &mut [Row]) {
        inverse(&self.passes, rows);
    }
}

fn forward(passes: &[Vec<Twiddle>], rows: &mut [Row]) {
    if rows.len() <= LEAF {
        return simd::dispatch(Forward { rows, passes });
    }
    let quarter = rows.len() / 4;
    simd::dispatch(Forward {
        rows,
        passes: &passes[..1],
    });
    rows.chunks_exact_mut(quarter)
        .for_each(|block| forward(&passes[1..], block));
}

fn inverse(passes: &[Vec<Twiddle>], rows: &mut [Row]) {
    if rows.len() <= LEAF {
        return simd::dispatch(Inverse { rows, passes });
    }
    let quarter = rows.len() / 4;
    rows.chunks_exact_mut(quarter)
        .for_each(|block| inverse(&passes[1..], block));
    simd::dispatch(Inverse {
        rows,
        passes: &passes[..1],
    });
}

struct Forward<'a> {
    rows: &'a mut [Row],
    passes: &'a [Vec<Twiddle>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows: &mut [S::f32s] = bytemuck::cast_slice_mut(self.rows);
        let width = WIDTH / S::F32_LANES;
        let mut block = rows.len();
        for pass in self.passes {
            for block in rows.chunks_exact_mut(block) {
                if pass.len() == 1 {
                    forward_pass::<S, false>(s, block, pass);
                } else {
                    forward_pass::<S, true>(s, block, pass);
                }
            }
            block /= 4;
        }
        if block == 2 * width {
            radix_2(s, rows);
        }
    }
}

struct Inverse<'a> {
    rows: &'a mut [Row],
    passes: &'a [Vec<Twiddle>],
}

impl WithSimd for Inverse<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows: &mut [S::f32s] = bytemuck::cast_slice_mut(self.rows);
        let width = WIDTH / S::F32_LANES;
        let mut block = rows.len() >> (2 * self.passes.len());
        if block == 2 * width {
            radix_2(s, rows);
        }
        for pass in self.passes.iter().rev() {
            block *= 4;
            for block in rows.chunks_exact_mut(block) {
                if pass.len() == 1 {
                    inverse_pass::<S, false>(s, block, pass);
                } else {
                    inverse_pass::<S, true>(s, block, pass);
                }
            }
        }
    }
}

/// Twiddle number `power` (1, 2 or 3), conjugated for the inverse transform.
#[inline(always)]
fn splat<S: Simd>(s: S, twiddle: &Twiddle, power: usize, conjugate: bool) -> Complex<S::f32s> {
    let (re, im) = (twiddle[2 * power - 2], twiddle[2 * power - 1]);
    Complex {
        re: s.splat_f32s(re),
        im: s.splat_f32s(if conjugate { -im } else { im }),
    }
}

/// Two stages of decimation in frequency over one block. `TWIDDLE` is false where all factors are one.
#[inline(always)]
fn forward_pass<S: Simd, const TWIDDLE: bool>(s: S, block: &mut [S::f32s], twiddles: &[Twiddle]) {
    let width = WIDTH / S::F32_LANES;
    let (low, high) = block.split_at_mut(block.len() / 2);
    let (x0, x1) = low.split_at_mut(low.len() / 2);
    let (x2, x3) = high.split_at_mut(high.len() / 2);
    let rows = x0.chunks_exact_mut(width).zip(x1.chunks_exact_mut(width));
    let rows = rows.zip(x2.chunks_exact_mut(width).zip(x3.chunks_exact_mut(width)));
    for (((x0, x1), (x2, x3)), twiddle) in rows.zip(twiddles) {
        let [w1, w2, w3] = [1, 2, 3].map(|power| splat(s, twiddle, power, false));
        for v in 0..width / 2 {
            let (a0, a1, a2, a3) = (get(x0, v), get(x1, v), get(x2, v), get(x3, v));
            let (sum_even, sum_odd) = (add(s, a0, a2), add(s, a1, a3));
            let (difference_even, difference_odd) = (sub(s, a0, a2), sub(s, a1, a3));
            let y1 = sub(s, sum_even, sum_odd);
            let y2 = sub_i(s, difference_even, difference_odd);
            let y3 = add_i(s, difference_even, difference_odd);
            set(x0, v, add(s, sum_even, sum_odd));
            set(x1, v, if TWIDDLE { mul(s, y1, w2) } else { y1 });
            set(x2, v, if TWIDDLE { mul(s, y2, w1) } else { y2 });
            set(x3, v, if TWIDDLE { mul(s, y3, w3) } else { y3 });
        }
    }
}

/// Undoes [`forward_pass`], times four.
#[inline(always)]
fn inverse_pass<S: Simd, const TWIDDLE: bool>(s: S, block: &mut [S::f32s], twiddles: &[Twiddle]) {
    let width = WIDTH / S::F32_LANES;
    let (low, high) = block.split_at_mut(block.len() / 2);
    let (x0, x1) = low.split_at_mut(low.len() / 2);
    let (x2, x3) = high.split_at_mut(high.len() / 2);
    let rows = x0.chunks_exact_mut(width).zip(x1.chunks_exact_mut(width));
    let rows = rows.zip(x2.chunks_exact_mut(width).zip(x3.chunks_exact_mut(width)));
    for (((x0, x1), (x2, x3)), twiddle) in rows.zip(twiddles) {
        let [w1, w2, w3] = [1, 2, 3].map(|power| splat(s, twiddle, power, true));
        for v in 0..width / 2 {
            let (y0, mut y1, mut y2, mut y3) = (get(x0, v), get(x1, v), get(x2, v), get(x3, v));
            if TWIDDLE {
                (y1, y2, y3) = (mul(s, y1, w2), mul(s, y2, w1), mul(s, y3, w3));
            }
            let (sum_even, sum_odd) = (add(s, y0, y1), sub(s, y0, y1));
            let (difference_even, difference_odd) = (add(s, y2, y3), sub(s, y2, y3));
            set(x0, v, add(s, sum_even, difference_even));
            set(x1, v, add_i(s, sum_odd, difference_odd));
            set(x2, v, sub(s, sum_even, difference_even));
            set(x3, v, sub_i(s, sum_odd, difference_odd));
        }
    }
}

/// The last stage of a size that is no power of four: sums and differences of neighbouring rows.
#[inline(always)]
fn radix_2<S: Simd>(s: S, rows: &mut [S::f32s]) {
    let width = WIDTH / S::F32_LANES;
    for pair in rows.chunks_exact_mut(2 * width) {
        let (low, high) = pair.split_at_mut(width);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (s.add_f32s(*a, *b), s.sub_f32s(*a, *b));
        }
    }
}
