//! One parameter's step on the processor: lanes over its values, threads over blocks of them.

use rayon::prelude::*;
use serpens_core::{Result, Tensor};

use super::Parameter;
use crate::simd::{self, Simd, WithSimd};

/// Values of a block; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 32 * 1024;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// t, from 1.
    pub step: u64,
    /// Factor on the gradient.
    pub clip: f32,
}

/// One step of a parameter and its moments, which have been checked.
pub(super) fn step(
    step: &Step,
    parameter: Parameter<'_>,
    [first, second]: &mut [Tensor; 2],
) -> Result<()> {
    let (first, second) = (first.make_mut()?, second.make_mut()?);
    let (value, gradient) = (parameter.value.make_mut()?, parameter.gradient.as_slice()?);
    update(step, value, gradient, first, second);
    Ok(())
}

/// Updates the parameter and its moments in place.
///
/// # Panics
/// If the slices differ in length.
pub fn update(step: &Step, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let len = p.len();
    assert!(g.len() == len && m.len() == len && v.len() == len, "sizes");
    let power = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
    let factors = Factors {
        decay: 1.0 - step.lr * step.weight_decay,
        lr: (f64::from(step.lr) / power(step.beta1)) as f32,
        second: power(step.beta2).sqrt().recip() as f32,
        step: *step,
    };
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK))
        .zip(v.par_chunks_mut(BLOCK))
        .for_each(|(((p, g), m), v)| {
            simd::dispatch(Update {
                factors,
                p,
                g,
                m,
                v,
            })
        });
}

#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    /// lr / (1 - β1^t)
    lr: f32,
    /// 1 / √(1 - β2^t)
    second: f32,
    step: Step,
}

struct Update<'a> {
    factors: Factors,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let f = self.factors;
        let splat = |x: f32| s.splat_f32s(x);
        let (beta1, beta2) = (splat(f.step.beta1), splat(f.step.beta2));
        let (rest1, rest2) = (splat(1.0 - f.step.beta1), splat(1.0 - f.step.beta2));
        let (clip, eps) = (splat(f.step.clip), splat(f.step.eps));
        let (decay, lr, second) = (splat(f.decay), splat(f.lr), splat(f.second));
        let lanes = S::F32_LANES;
        let chunks = self.p.chunks_mut(lanes).zip(self.g.chunks(lanes));
        let moments = self.m.chunks_mut(lanes).zip(self.v.chunks_mut(lanes));
        for ((p, g), (m, v)) in chunks.zip(moments) {
            let gradient = s.mul_f32s(simd::load(s, g), clip);
            let first = s.mul_add_f32s(beta1, simd::load(s, m), s.mul_f32s(rest1, gradient));
            let square = s.mul_f32s(gradient, gradient);
            let spread = s.mul_add_f32s(beta2, simd::load(s, v), s.mul_f32s(rest2, square));
            let root = s.mul_add_f32s(s.sqrt_f32s(spread), second, eps);
            let step = s.mul_f32s(lr, s.div_f32s(first, root));
            let value = s.mul_f32s(simd::load(s, p), decay);
            simd::store(s, p, s.sub_f32s(value, step));
            simd::store(s, m, first);
            simd::store(s, v, spread);
        }
    }
}

/// Σ g², summed in f64 in a fixed order.
pub fn sum_of_squares(g: &[f32]) -> f64 {
    let over_blocks = |f: fn(&[f32]) -> f64| -> f64 {
        let sums: Vec<f64> = g.par_chunks(BLOCK).map(f).collect();
        sums.iter().sum()
    };
    let sum = over_blocks(|block| simd::dispatch(SumOfSquares(block)));
    if (1e-30..=f64::MAX).contains(&sum) {
        return sum;
    }
    // The squares may have been too large or too small for f32.
    over_blocks(|block| block.iter().map(|&g| f64::from(g).powi(2)).sum())
}

struct SumOfSquares<'a>(&'a [f32]);

impl WithSimd for SumOfSquares<'_> {
    type Output = f64;

    /// Lanes hold f32 sums of 256 squares each at most, which are added up in f64.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        for run in self.0.chunks(256 * S::F32_LANES) {
            let mut sums = s.splat_f32s(0.0);
            for x in run.chunks(S::F32_LANES) {
                let x = simd::load(s, x);
                sums = s.mul_add_f32s(x, x, sums);
            }
            total += f64::from(s.reduce_sum_f32s(sums));
        }
        total
    }
}

/// The factor that brings a gradient of this norm down to `max_norm`; 1 where it is smaller.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}
