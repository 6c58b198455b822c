//! From logits to a token, and log-probabilities.

use std::cmp::Ordering;

use rand::Rng;
use serpens_ops::sampling::{History, SampleOptions, cpu};

use crate::Result;

/// Draws tokens as [`serpens_ops::sampling`] says; keeps its scratch, so that nothing is allocated per token.
pub struct Sampler(cpu::Sampler);

impl Sampler {
    /// A sampler with these options.
    ///
    /// # Errors
    /// Those of [`SampleOptions::check`].
    pub fn new(options: SampleOptions) -> Result<Self> {
        Ok(Self(cpu::Sampler::new(options)?))
    }

    /// The next token. It takes 64 bits from the stream of random numbers, whether they matter or not.
    ///
    /// # Errors
    /// [`Error::Logits`](crate::Error::Logits).
    pub fn sample(&mut self, logits: &[f32], history: &History, rng: &mut dyn Rng) -> Result<u32> {
        Ok(self.0.sample(logits, history, rng.next_u64())?)
    }
}

/// The place of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> Option<usize> {
    let larger = |best: (usize, f32), x: (usize, f32)| if x.1 > best.1 { x } else { best };
    let best = values.iter().copied().enumerate().reduce(larger);
    best.map(|(i, _)| i)
}

/// ln Σ exp(x), the normaliser of log-probabilities: ln p_i = x_i − this, of the model's own distribution, before any
/// option of sampling. Sums are f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}

/// The `n` most probable tokens and their log-probabilities in the model's own distribution, the most probable first,
/// of equals the first.
pub fn most_probable(logits: &[f32], n: usize) -> Vec<(u32, f64)> {
    match n {
        0 => Vec::new(),
        _ => most_probable_of(logits, n, log_sum_exp(logits)),
    }
}

/// [`most_probable`], where [`log_sum_exp`] is known.
pub(crate) fn most_probable_of(logits: &[f32], n: usize, normaliser: f64) -> Vec<(u32, f64)> {
    if n == 0 {
        return Vec::new();
    }
    let mut tokens: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
    if n < tokens.len() {
        tokens.select_nth_unstable_by(n - 1, by_falling);
        tokens.truncate(n);
    }
    tokens.sort_unstable_by(by_falling);
    let of = |(x, token)| (token, f64::from(x) - normaliser);
    tokens.into_iter().map(of).collect()
}

/// By falling value, and by token among equals.
fn by_falling(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
