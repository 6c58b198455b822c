//! Cross-entropy on the processor: lanes over the vocabulary, threads over rows.

use crate::simd::{Simd, WithSimd, dispatch, exp, load, store};

/// The target of a row that takes no part in the loss.
pub const IGNORE: u32 = u32::MAX;

/// About as many logits as one task is worth; fewer than this stay on the calling thread.
const BLOCK: usize = 1 << 15;

/// Values added in f32 before the partial sum goes on in f64.
const SUM_BLOCK: usize = 1024;

/// The largest `S::F32_LANES` of any instruction set.
const MAX_LANES: usize = 16;

/// What a forward pass says about its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sum of −ln p(target) over the counted rows, in nats.
    pub sum: f64,
    /// Rows whose target is not [`IGNORE`].
    pub count: usize,
    /// Counted rows whose largest logit (the first of equal ones) is the target's.
    pub correct: usize,
}

impl Totals {
    /// The mean over the counted rows, in nats; 0 where none is counted.
    pub fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.sum / self.count as f64
        }
    }

    /// The totals over the rows of both.
    pub fn merge(self, other: Totals) -> Totals {
        Totals {
            sum: self.sum + other.sum,
            count: self.count + other.count,
            correct: self.correct + other.correct,
        }
    }
}

/// Asks that every target be below `vocab` or [`IGNORE`].
///
/// # Errors
/// The index of the first target that is neither.
pub fn check_targets(targets: &[u32], vocab: usize) -> Result<(), usize> {
    let valid = |&target: &u32| (target as usize) < vocab || target == IGNORE;
    match targets.iter().position(|target| !valid(target)) {
        Some(row) => Err(row),
        None => Ok(()),
    }
}

/// The loss of `logits` `(rows, vocab)` against `targets` `(rows)`, and in `norms` `(rows)` for [`backward`] each row's
/// largest logit and Σ exp(x − largest). They stay apart, since a float that holds their log-sum-exp may be too large
/// to hold the second of them. Zeros are written there for ignored rows.
///
/// # Panics
/// If the lengths disagree, or where [`check_targets`] finds an error.
pub fn forward(logits: &[f32], targets: &[u32], vocab: usize, norms: &mut [[f32; 2]]) -> Totals {
    assert_shapes(logits.len(), targets, vocab, norms.len());
    forward_tree(logits, targets, vocab, norms)
}

/// Turns `logits` `(rows, vocab)` into `scale` · ∂(Σ_r nll_r)/∂logits in place, given the `norms` `(rows)`
/// of [`forward`]. With `scale` = upstream / count this is the gradient of the mean.
///
/// # Panics
/// Like [`forward`].
pub fn backward(logits: &mut [f32], targets: &[u32], vocab: usize, norms: &[[f32; 2]], scale: f32) {
    assert_shapes(logits.len(), targets, vocab, norms.len());
    backward_tree(logits, targets, vocab, norms, scale);
}

pub(super) fn assert_shapes(logits: usize, targets: &[u32], vocab: usize, norms: usize) {
    let rows = targets.len();
    assert_eq!(logits, rows * vocab, "logits are (rows, vocab)");
    assert_eq!(norms, rows, "one pair for each row");
    assert_eq!(check_targets(targets, vocab), Ok(()), "targets");
}

/// Where to halve `rows`; nothing where they are one block. Depends on the shape only, and so do all results.
pub(super) fn split(rows: usize, vocab: usize) -> Option<usize> {
    let block = BLOCK.div_ceil(vocab.max(1));
    (rows > block).then(|| (rows / 2).next_multiple_of(block))
}

fn forward_tree(logits: &[f32], targets: &[u32], vocab: usize, norms: &mut [[f32; 2]]) -> Totals {
    let Some(half) = split(targets.len(), vocab) else {
        return dispatch(Forward {
            logits,
            targets,
            vocab,
            norms,
        });
    };
    let (logits, other_logits) = logits.split_at(half * vocab);
    let (targets, other_targets) = targets.split_at(half);
    let (norms, other_norms) = norms.split_at_mut(half);
    let (loss, other) = rayon::join(
        || forward_tree(logits, targets, vocab, norms),
        || forward_tree(other_logits, other_targets, vocab, other_norms),
    );
    loss.merge(other)
}

fn backward_tree(
    logits: &mut [f32],
    targets: &[u32],
    vocab: usize,
    norms: &[[f32; 2]],
    scale: f32,
) {
    let Some(half) = split(targets.len(), vocab) else {
        return dispatch(Backward {
            logits,
            targets,
            vocab,
            norms,
            scale,
        });
    };
    let (logits, other_logits) = logits.split_at_mut(half * vocab);
    let (targets, other_targets) = targets.split_at(half);
    let (norms, other_norms) = norms.split_at(half);
    rayon::join(
        || backward_tree(logits, targets, vocab, norms, scale),
        || backward_tree(other_logits, other_targets, vocab, other_norms, scale),
    );
}

/// [`forward`] on one block of rows.
pub(super) struct Forward<'a> {
    pub logits: &'a [f32],
    pub targets: &'a [u32],
    pub vocab: usize,
    pub norms: &'a mut [[f32; 2]],
}

impl WithSimd for Forward<'_> {
    type Output = Totals;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Totals {
        let mut loss = Totals::default();
        for (r, (&target, norm)) in self.targets.iter().zip(self.norms).enumerate() {
            *norm = [0.0; 2];
            if target == IGNORE {
                continue;
            }
            let row = &self.logits[r * self.vocab..][..self.vocab];
            let target = target as usize;
            let max = maximum(s, row);
            let sum = sum_exp(s, row, max);
            *norm = [max, sum as f32];
            loss.sum += f64::from(max) - f64::from(row[target]) + sum.ln();
            loss.count += 1;
            // The target is the first maximum; the scan before it runs only where it is a maximum at all.
            let first = row[target] == max && row[..target].iter().all(|&x| x < max);
            loss.correct += usize::from(first);
        }
        loss
    }
}

/// [`backward`] on one block of rows.
pub(super) struct Backward<'a> {
    pub logits: &'a mut [f32],
    pub targets: &'a [u32],
    pub vocab: usize,
    pub norms: &'a [[f32; 2]],
    pub scale: f32,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for (r, (&target, &[max, sum])) in self.targets.iter().zip(self.norms).enumerate() {
            let row = &mut self.logits[r * self.vocab..][..self.vocab];
            if target == IGNORE {
                row.fill(0.0);
                continue;
            }
            let (max, factor) = (s.splat_f32s(max), s.splat_f32s(self.scale / sum));
            for x in row.chunks_mut(S::F32_LANES) {
                let power = exp(s, s.sub_f32s(load(s, x), max));
                store(s, x, s.mul_f32s(power, factor));
            }
            row[target as usize] -= self.scale;
        }
    }
}

/// Four independent chains hide the latency of one operation.
const CHAINS: usize = 4;

/// The largest value of `x`, −∞ for none; a NaN may pass unseen.
#[inline(always)]
fn maximum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut max = [s.splat_f32s(f32::NEG_INFINITY); CHAINS];
    let mut groups = x.chunks_exact(CHAINS * S::F32_LANES);
    for group in groups.by_ref() {
        for (max, x) in max.iter_mut().zip(group.chunks_exact(S::F32_LANES)) {
            *max = s.max_f32s(*max, load(s, x));
        }
    }
    for x in groups.remainder().chunks(S::F32_LANES) {
        max[0] = s.max_f32s(max[0], load_or_lowest(s, x));
    }
    let max = s.max_f32s(s.max_f32s(max[0], max[1]), s.max_f32s(max[2], max[3]));
    s.reduce_max_f32s(max)
}

/// Σ exp(x − max): f32 within a block, f64 across blocks, so that a long row loses nothing.
#[inline(always)]
fn sum_exp<S: Simd>(s: S, x: &[f32], max: f32) -> f64 {
    let max = s.splat_f32s(max);
    let mut total = 0.0;
    for block in x.chunks(SUM_BLOCK) {
        let mut sums = [s.splat_f32s(0.0); CHAINS];
        let mut groups = block.chunks_exact(CHAINS * S::F32_LANES);
        for group in groups.by_ref() {
            for (sum, x) in sums.iter_mut().zip(group.chunks_exact(S::F32_LANES)) {
                *sum = s.add_f32s(*sum, exp(s, s.sub_f32s(load(s, x), max)));
            }
        }
        for x in groups.remainder().chunks(S::F32_LANES) {
            let shifted = s.sub_f32s(load_or_lowest(s, x), max);
            sums[0] = s.add_f32s(sums[0], exp(s, shifted));
        }
        let sum = s.add_f32s(s.add_f32s(sums[0], sums[1]), s.add_f32s(sums[2], sums[3]));
        total += f64::from(s.reduce_sum_f32s(sum));
    }
    total
}

/// Like [`load`], with −∞ in the missing lanes.
#[inline(always)]
fn load_or_lowest<S: Simd>(s: S, x: &[f32]) -> S::f32s {
    const { assert!(S::F32_LANES <= MAX_LANES) };
    let mut padded = [f32::NEG_INFINITY; MAX_LANES];
    let count = x.len().min(S::F32_LANES);
    padded[..count].copy_from_slice(&x[..count]);
    load(s, &padded)
}
