//! The definition in f64.

use crate::cross_entropy::cpu::{IGNORE, Totals};

/// ln Σ exp(x) of one row.
pub fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// The loss of `logits` `(rows, vocab)` against `targets` `(rows)`.
pub fn forward(logits: &[f64], targets: &[u32], vocab: usize) -> Totals {
    let mut loss = Totals::default();
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        if target == IGNORE {
            continue;
        }
        let target = target as usize;
        loss.sum += log_sum_exp(row) - row[target];
        loss.count += 1;
        let mut best = 0;
        for (j, &x) in row.iter().enumerate() {
            if x > row[best] {
                best = j;
            }
        }
        loss.correct += usize::from(best == target);
    }
    loss
}

/// `scale` · ∂(Σ nll)/∂logits `(rows, vocab)`.
pub fn backward(logits: &[f64], targets: &[u32], vocab: usize, scale: f64) -> Vec<f64> {
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        let lse = log_sum_exp(row);
        for (j, &x) in row.iter().enumerate() {
            let one_hot = if j == target as usize { 1.0 } else { 0.0 };
            let counted = if target == IGNORE { 0.0 } else { scale };
            gradient.push(((x - lse).exp() - one_hot) * counted);
        }
    }
    gradient
}
