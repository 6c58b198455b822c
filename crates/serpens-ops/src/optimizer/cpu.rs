//! One parameter's step on the processor: lanes over its values, threads over blocks of them.

use rayon::prelude::*;
use serpens_core::{Result, Tensor};

use super::{Parameter, Rule};
use crate::simd::{self, Simd, WithSimd};

/// Values of a block; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 32 * 1024;

/// The numbers of one step of a parameter.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// t, from 1.
    pub step: u64,
    /// Factor on the gradient.
    pub clip: f32,
}

/// Some values of a parameter, and what belongs to them.
pub struct Block<'a> {
    step: &'a Step,
    values: &'a mut [f32],
    gradient: &'a [f32],
    moments: Vec<&'a mut [f32]>,
}

impl Block<'_> {
    /// Updates all values: `rule` gives what a step takes off one, and brings its N moments forward. Its first operand
    /// is the gradient, scaled by the clipping factor; weight decay is not its concern. It is compiled for vectors of
    /// values where it is arithmetic alone, with [`f32::mul_add`] one instruction.
    ///
    /// # Panics
    /// If N is not the number of the rule's moments.
    pub fn each<const N: usize>(self, rule: impl Fn(f32, [&mut f32; N]) -> f32) {
        let moments = self.moments.try_into();
        let moments = moments.unwrap_or_else(|_| panic!("the rule does not keep {N} moments"));
        simd::dispatch(Each {
            decay: 1.0 - self.step.lr * self.step.weight_decay,
            clip: self.step.clip,
            values: self.values,
            gradient: self.gradient,
            moments,
            rule,
        });
    }
}

struct Each<'a, const N: usize, F> {
    decay: f32,
    clip: f32,
    values: &'a mut [f32],
    gradient: &'a [f32],
    moments: [&'a mut [f32]; N],
    rule: F,
}

impl<const N: usize, F: Fn(f32, [&mut f32; N]) -> f32> WithSimd for Each<'_, N, F> {
    type Output = ();

    /// The compiler makes vectors of this loop, of the width of its caller's instruction set.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (decay, clip, rule, len) = (self.decay, self.clip, self.rule, self.values.len());
        let gradient = &self.gradient[..len];
        let mut moments = self.moments.map(|moment| &mut moment[..len]);
        for (i, value) in self.values.iter_mut().enumerate() {
            let moments = moments.each_mut().map(|moment| &mut moment[i]);
            *value = *value * decay - rule(gradient[i] * clip, moments);
        }
    }
}

/// One step of a parameter and its moments, which have been checked.
pub(super) fn step(
    rule: &dyn Rule,
    step: &Step,
    parameter: Parameter<'_>,
    moments: &mut [Tensor],
) -> Result<()> {
    let moments = moments.iter_mut().map(Tensor::make_mut);
    let moments = moments.collect::<Result<Vec<_>>>()?;
    let (values, gradient) = (parameter.value.make_mut()?, parameter.gradient.as_slice()?);
    update(rule, step, values, gradient, moments);
    Ok(())
}

/// Updates the parameter and its moments, as many as the rule keeps, in place.
///
/// # Panics
/// If slices differ in length, or the rule keeps another number of moments.
pub fn update(
    rule: &dyn Rule,
    step: &Step,
    values: &mut [f32],
    gradient: &[f32],
    mut moments: Vec<&mut [f32]>,
) {
    let fits = moments.iter().all(|moment| moment.len() == values.len());
    assert!(fits && gradient.len() == values.len(), "sizes");
    let mut moments: Vec<_> = moments.iter_mut().map(|m| m.chunks_mut(BLOCK)).collect();
    let pairs = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
    let blocks = pairs.map(|(values, gradient)| Block {
        step,
        values,
        gradient,
        moments: moments.iter_mut().filter_map(Iterator::next).collect(),
    });
    let blocks: Vec<_> = blocks.collect();
    blocks
        .into_par_iter()
        .for_each(|block| rule.update(step, block));
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
