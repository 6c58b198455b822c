//! The definition by what each class has of each row, q: in f64 the truth, in f32 the yardstick of a kernel's error.

use crate::cross_entropy::IGNORE;
use crate::shared::tests::real::{Real, one, zero};

/// What every class has of the loss of a row with this target.
fn shares<R: Real>(weights: &[R], smoothing: R, target: usize) -> Vec<R> {
    let spread = smoothing / R::from(weights.len() as f32);
    let mut shares: Vec<R> = weights.iter().map(|&weight| spread * weight).collect();
    shares[target] += (one::<R>() - smoothing) * weights[target];
    shares
}

/// The largest value of a row, and Σ exp(x − largest): apart, for the sake of large ones.
fn norm<R: Real>(row: &[R]) -> (R, R) {
    let larger = |a, b| if b > a { b } else { a };
    let max = row.iter().copied().fold(R::from(f32::NEG_INFINITY), larger);
    (max, row.iter().map(|x| (*x - max).exp()).sum())
}

/// The loss of logits (rows, classes), and its gradient.
pub fn loss_and_gradient<R: Real>(
    logits: &[R],
    targets: &[u32],
    weights: &[R],
    smoothing: R,
) -> (R, Vec<R>) {
    let counted = targets.iter().filter(|&&target| target != IGNORE);
    let of_all: R = counted.map(|&target| weights[target as usize]).sum();
    if of_all == zero() {
        return (zero(), vec![zero(); logits.len()]);
    }
    let (mut loss, mut gradient) = (zero::<R>(), Vec::with_capacity(logits.len()));
    for (row, &target) in logits.chunks_exact(weights.len()).zip(targets) {
        if target == IGNORE {
            gradient.extend(row.iter().map(|_| zero::<R>()));
            continue;
        }
        let shares = shares(weights, smoothing, target as usize);
        let ((max, sum), total) = (norm(row), shares.iter().copied().sum::<R>());
        for (&x, &share) in row.iter().zip(&shares) {
            if share != zero() {
                loss += share * (max - x + sum.ln());
            }
            gradient.push(((x - max).exp() / sum * total - share) / of_all);
        }
    }
    (loss / of_all, gradient)
}
