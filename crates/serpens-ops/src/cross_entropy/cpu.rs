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

/// Below this the vector exponential leaves its exact range; the true value, under 5e-38, counts as zero.
const LOWEST_EXPONENT: f32 = -86.0;

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

/// The loss of `logits` `(rows, vocab)` against `targets` `(rows)`, and the log-sum-exp of each row for [`backward`]
/// in `lse` `(rows)`; 0 is written there for ignored rows.
///
/// # Panics
/// If the lengths disagree, or where [`check_targets`] finds an error.
pub fn forward(logits: &[f32], targets: &[u32], vocab: usize, lse: &mut [f32]) -> Totals {
    assert_shapes(logits.len(), targets.len(), vocab, lse.len());
    forward_tree(logits, targets, vocab, lse)
}

/// Turns `logits` `(rows, vocab)` into `scale` · ∂(Σ_r nll_r)/∂logits in place, given the `lse` `(rows)` of
/// [`forward`]. With `scale` = upstream / count this is the gradient of the mean.
///
/// # Panics
/// Like [`forward`].
pub fn backward(logits: &mut [f32], targets: &[u32], vocab: usize, lse: &[f32], scale: f32) {
    assert_shapes(logits.len(), targets.len(), vocab, lse.len());
    backward_tree(logits, targets, vocab, lse, scale);
}

fn assert_shapes(logits: usize, rows: usize, vocab: usize, per_row: usize) {
    assert_eq!(logits, rows * vocab, "logits are (rows, vocab)");
    assert_eq!(per_row, rows, "one value for each row");
}

/// Where to halve `rows`; nothing where they are one block. Depends on the shape only, and so do all results.
fn split(rows: usize, vocab: usize) -> Option<usize> {
    let block = BLOCK.div_ceil(vocab.max(1));
    (rows > block).then(|| (rows / 2).next_multiple_of(block))
}

fn forward_tree(logits: &[f32], targets: &[u32], vocab: usize, lse: &mut [f32]) -> Totals {
    let Some(half) = split(targets.len(), vocab) else {
        return dispatch(Forward {
            logits,
            targets,
            vocab,
            lse,
        });
    };
    let (logits, other_logits) = logits.split_at(half * vocab);
    let (targets, other_targets) = targets.split_at(half);
    let (lse, other_lse) = lse.split_at_mut(half);
    let (loss, other) = rayon::join(
        || forward_tree(logits, targets, vocab, lse),
        || forward_tree(other_logits, other_targets, vocab, other_lse),
    );
    loss.merge(other)
}

fn backward_tree(logits: &mut [f32], targets: &[u32], vocab: usize, lse: &[f32], scale: f32) {
    let Some(half) = split(targets.len(), vocab) else {
        return dispatch(Backward {
            logits,
            targets,
            vocab,
            lse,
            scale,
        });
    };
    let (logits, other_logits) = logits.split_at_mut(half * vocab);
    let (targets, other_targets) = targets.split_at(half);
    let (lse, other_lse) = lse.split_at(half);
    rayon::join(
        || backward_tree(logits, targets, vocab, lse, scale),
        || backward_tree(other_logits, other_targets, vocab, other_lse, scale),
    );
}

/// [`forward`] on one block of rows.
pub(super) struct Forward<'a> {
    pub logits: &'a [f32],
    pub targets: &'a [u32],
    pub vocab: usize,
    pub lse: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = Totals;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> Totals {
        let mut loss = Totals::default();
        for (r, (&target, lse)) in self.targets.iter().zip(self.lse).enumerate() {
            *lse = 0.0;
            if target == IGNORE {
                continue;
            }
            let row = &self.logits[r * self.vocab..][..self.vocab];
            let target = target as usize;
            let norm = LogSumExp::of(s, row);
            *lse = norm.value();
            loss.sum += norm.nll(row[target]);
            loss.count += 1;
            // The target is the first maximum; the scan before it runs only where it is a maximum at all.
            let first = row[target] == norm.max && row[..target].iter().all(|&x| x < norm.max);
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
    pub lse: &'a [f32],
    pub scale: f32,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let scale = s.splat_f32s(self.scale);
        for (r, (&target, &lse)) in self.targets.iter().zip(self.lse).enumerate() {
            let row = &mut self.logits[r * self.vocab..][..self.vocab];
            if target == IGNORE {
                row.fill(0.0);
                continue;
            }
            let lse = s.splat_f32s(lse);
            for x in row.chunks_mut(S::F32_LANES) {
                let p = exp_or_zero(s, s.sub_f32s(load(s, x), lse));
                store(s, x, s.mul_f32s(p, scale));
            }
            row[target as usize] -= self.scale;
        }
    }
}

/// ln Σ exp(x) of one row, kept as its two parts: their sum may be too large for f32 to hold the smaller one.
struct LogSumExp {
    max: f32,
    /// ln Σ exp(x − max).
    log_sum: f64,
}

impl LogSumExp {
    #[inline(always)]
    fn of<S: Simd>(s: S, row: &[f32]) -> Self {
        let max = maximum(s, row);
        let log_sum = sum_exp(s, row, max).ln();
        LogSumExp { max, log_sum }
    }

    #[inline(always)]
    fn value(&self) -> f32 {
        (f64::from(self.max) + self.log_sum) as f32
    }

    /// −ln p of a value of the row.
    #[inline(always)]
    fn nll(&self, x: f32) -> f64 {
        f64::from(self.max) - f64::from(x) + self.log_sum
    }
}

/// Four independent chains hide the latency of one operation.
const CHAINS: usize = 4;

/// The largest value of `x`, −∞ for none; a NaN may pass unseen.
#[inline(always)]
pub(crate) fn maximum<S: Simd>(s: S, x: &[f32]) -> f32 {
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
                *sum = s.add_f32s(*sum, exp_or_zero(s, s.sub_f32s(load(s, x), max)));
            }
        }
        for x in groups.remainder().chunks(S::F32_LANES) {
            let shifted = s.sub_f32s(load_or_lowest(s, x), max);
            sums[0] = s.add_f32s(sums[0], exp_or_zero(s, shifted));
        }
        let sum = s.add_f32s(s.add_f32s(sums[0], sums[1]), s.add_f32s(sums[2], sums[3]));
        total += f64::from(s.reduce_sum_f32s(sum));
    }
    total
}

/// e^x, exactly 0 for very small x (a subnormal gradient would slow down whatever follows), and NaN for NaN on every
/// instruction set.
#[inline(always)]
pub(crate) fn exp_or_zero<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let lowest = s.splat_f32s(LOWEST_EXPONENT);
    let zero_or_nan = s.select_f32s(s.less_than_f32s(x, lowest), s.splat_f32s(0.0), x);
    s.select_f32s(s.less_than_or_equal_f32s(lowest, x), exp(s, x), zero_or_nan)
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
