//! The definition: in f64 the truth, in f32 the yardstick of a kernel's error. The largest logit and the sum of a row
//! stay apart, since what is rounded to hold both loses the second where the first is large.

use crate::cross_entropy::cpu::{IGNORE, Totals};
use crate::shared::tests::real::{Real, one, zero};

/// The largest value of a row, and Σ exp(x − largest).
fn norm<R: Real>(row: &[R]) -> (R, R) {
    let larger = |a, b| if b > a { b } else { a };
    let max = row.iter().copied().fold(R::from(f32::NEG_INFINITY), larger);
    (max, row.iter().map(|x| (*x - max).exp()).sum())
}

/// The loss of `logits` `(rows, vocab)` against `targets` `(rows)`.
pub fn forward<R: Real>(logits: &[R], targets: &[u32], vocab: usize) -> Totals {
    let (mut nll, mut totals) = (zero::<R>(), Totals::default());
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        if target == IGNORE {
            continue;
        }
        let (max, sum) = norm(row);
        let target = target as usize;
        nll += max - row[target] + sum.ln();
        totals.count += 1;
        let first = row.iter().position(|x| *x == max);
        totals.correct += usize::from(first == Some(target));
    }
    totals.sum = nll.into();
    totals
}

/// `scale` · ∂(Σ nll)/∂logits `(rows, vocab)`.
pub fn backward<R: Real>(logits: &[R], targets: &[u32], vocab: usize, scale: R) -> Vec<R> {
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        let (max, sum) = norm(row);
        for (j, &x) in row.iter().enumerate() {
            let one_hot = if j == target as usize { one() } else { zero() };
            let counted = if target == IGNORE { zero() } else { scale };
            gradient.push(((x - max).exp() / sum - one_hot) * counted);
        }
    }
    gradient
}
