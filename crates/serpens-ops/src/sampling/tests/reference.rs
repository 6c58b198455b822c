//! The definition: the distribution in f64, and the draw by sorting, with sums that cannot overflow. It takes weights
//! as given, which the tests hold against the exponential apart.

use crate::sampling::{SampleOptions, WINDOW};

/// What the tokens before are: those read and those drawn, in their order.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub prompt: Vec<u32>,
    pub drawn: Vec<u32>,
}

impl Before {
    fn recent(&self) -> Vec<u32> {
        let all = [&self.prompt[..], &self.drawn].concat();
        all[all.len().saturating_sub(WINDOW)..].to_vec()
    }
}

/// The logits after bias and penalties, in f64.
pub fn adjusted(options: &SampleOptions, logits: &[f32], before: &Before) -> Vec<f64> {
    let recent = before.recent();
    let penalty = f64::from(options.repetition_penalty);
    let adjust = |(token, x): (u32, &f32)| {
        let mut x = f64::from(*x);
        for (biased, bias) in &options.logit_bias {
            x += if *biased == token {
                f64::from(*bias)
            } else {
                0.0
            };
        }
        if recent.contains(&token) {
            x = if x > 0.0 { x / penalty } else { x * penalty };
        }
        let count = before.drawn.iter().filter(|drawn| **drawn == token).count();
        if count > 0 {
            x -= f64::from(options.presence_penalty);
            x -= count as f64 * f64::from(options.frequency_penalty);
        }
        x
    };
    (0..).zip(logits).map(adjust).collect()
}

/// The tokens from the largest logit down, of equals the lower first.
fn falling(x: &[f64]) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..x.len()).collect();
    tokens.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    tokens
}

/// The probability that each token is drawn with.
pub fn probabilities(options: &SampleOptions, logits: &[f32], before: &Before) -> Vec<f64> {
    let x = adjusted(options, logits, before);
    let order = falling(&x);
    let mut p = vec![0.0; x.len()];
    if options.temperature == 0.0 {
        p[order[0]] = 1.0;
        return p;
    }
    let max = x[order[0]];
    let weight = |token: usize| ((x[token] - max) / f64::from(options.temperature)).exp();
    let kept = match options.top_k {
        0 => &order[..],
        k => &order[..k.min(order.len())],
    };
    let total: f64 = kept.iter().map(|token| weight(*token)).sum();
    let (mut sum, goal) = (0.0, f64::from(options.top_p) * total);
    for &token in kept {
        if sum >= goal && options.top_p < 1.0 {
            break;
        }
        sum += weight(token);
        if weight(token) >= f64::from(options.min_p) {
            p[token] = weight(token);
        }
    }
    let total: f64 = p.iter().sum();
    p.iter().map(|p| p / total).collect()
}

/// The token that a number draws, of tokens with these logits, bias and penalties among them, and these weights in
/// units of 2^-40.
pub fn draw(options: &SampleOptions, x: &[f32], weights: &[u64], number: u64) -> u32 {
    let order = falling(&x.iter().map(|x| f64::from(*x + 0.0)).collect::<Vec<_>>());
    if options.temperature == 0.0 {
        return order[0] as u32;
    }
    let mut kept = order;
    if options.top_k > 0 {
        kept.truncate(options.top_k);
    }
    let sum = |tokens: &[usize]| tokens.iter().map(|t| u128::from(weights[*t])).sum::<u128>();
    // How many tokens it takes until their sum is enough.
    let count = |tokens: &[usize], enough: &dyn Fn(u128) -> bool| {
        let mut sum = 0;
        let more = |token: &usize| {
            sum += u128::from(weights[*token]);
            enough(sum)
        };
        tokens.iter().position(more).unwrap() + 1
    };
    if options.top_p < 1.0 {
        // The part p of the total as a fraction of 2^64, so that nothing is rounded.
        let p = (f64::from(options.top_p) * 2.0_f64.powi(64)) as u128;
        let goal = p * sum(&kept);
        kept.truncate(count(&kept, &|sum| sum << 64 >= goal));
    }
    let least = (f64::from(options.min_p) * 2.0_f64.powi(40)).round_ties_even() as u64;
    kept.retain(|token| weights[*token] >= least);
    kept.sort_unstable();
    let goal = (u128::from(number) * sum(&kept)) >> 64;
    kept[count(&kept, &|sum| sum > goal) - 1] as u32
}
