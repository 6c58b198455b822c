//! From logits to a token.
//!
//! In this order: the repetition penalty divides positive and multiplies negative logits of recent tokens; the
//! temperature T divides all; top-k keeps the k largest; top-p keeps the fewest tokens whose probabilities reach p;
//! min-p drops tokens below min_p times the largest probability; one of the rest is drawn by its probability, p_i ∝
//! exp(x_i / T). T = 0 takes the largest logit, the first of equals.

#[cfg(test)]
mod tests;

use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

use rand::{Rng, RngExt};
use smart_default::SmartDefault;

/// What can go wrong in sampling.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// An option outside its range.
    #[error("{name} = {value} is not possible: {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        expected: &'static str,
    },
    /// Logits that leave nothing to draw from.
    #[error("the model's logits hold {0}: its weights are damaged or training diverged")]
    Logits(&'static str),
}

/// How to draw. The default draws from the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault)]
pub struct SampleOptions {
    /// T ≥ 0; 0 takes the most probable token.
    #[default = 1.0]
    pub temperature: f32,
    /// Number of most probable tokens kept; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept, in (0, 1]; 1 keeps all.
    #[default = 1.0]
    pub top_p: f32,
    /// Least probability kept, relative to the largest, in [0, 1); 0 keeps all.
    pub min_p: f32,
    /// > 0; above 1 makes recent tokens less probable.
    #[default = 1.0]
    pub repetition_penalty: f32,
}

impl SampleOptions {
    /// Refuses options outside their ranges.
    pub fn check(&self) -> Result<(), SampleError> {
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        let (top_p, min_p) = (self.top_p, self.min_p);
        let (name, value, expected) = if !(0.0..f32::INFINITY).contains(&temperature) {
            ("temperature", temperature, "it is at least 0")
        } else if !(Excluded(0.0), Included(1.0)).contains(&top_p) {
            ("top-p", top_p, "it lies above 0 and up to 1")
        } else if !(0.0..1.0).contains(&min_p) {
            ("min-p", min_p, "it lies from 0 to below 1")
        } else if !(Excluded(0.0), Excluded(f32::INFINITY)).contains(&penalty) {
            ("repetition penalty", penalty, "it is above 0")
        } else {
            return Ok(());
        };
        Err(SampleError::Option {
            name,
            value,
            expected,
        })
    }
}

/// Draws tokens; keeps its scratch, so that nothing is allocated per token.
pub struct Sampler {
    options: SampleOptions,
    logits: Vec<f32>,
    /// (probability, token), the most probable first as far as it matters.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler with these options.
    pub fn new(options: SampleOptions) -> Result<Self, SampleError> {
        options.check()?;
        Ok(Self {
            options,
            logits: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// The next token; `recent` are those that the repetition penalty looks at.
    pub fn sample(
        &mut self,
        logits: &[f32],
        recent: &[u32],
        rng: &mut dyn Rng,
    ) -> Result<u32, SampleError> {
        if logits.iter().any(|x| x.is_nan()) {
            return Err(SampleError::Logits("NaN"));
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(logits, recent);
        let best = argmax(&self.logits).ok_or(SampleError::Logits("nothing"))?;
        if !self.logits[best].is_finite() {
            return Err(SampleError::Logits("no finite largest value"));
        }
        if self.options.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.weigh(self.logits[best]);
        self.restrict();
        Ok(self.draw(rng))
    }

    fn penalise(&mut self, logits: &[f32], recent: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &token in recent {
            // From the original value, so that a token seen twice is penalised once.
            if let (Some(x), Some(slot)) = (
                logits.get(token as usize),
                self.logits.get_mut(token as usize),
            ) {
                *slot = if *x > 0.0 { x / penalty } else { x * penalty };
            }
        }
    }

    /// Unnormalised probabilities; the largest is 1.
    fn weigh(&mut self, best: f32) {
        let temperature = self.options.temperature;
        self.candidates.clear();
        let weights = self.logits.iter().map(|x| ((x - best) / temperature).exp());
        let tokens = weights.zip(0..).filter(|(weight, _)| *weight > 0.0);
        self.candidates.extend(tokens);
    }

    fn restrict(&mut self) {
        let options = self.options;
        let (top_k, top_p, min_p) = (options.top_k, options.top_p, options.min_p);
        // By falling weight, and by token among equals.
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let all = self.candidates.len();
        if top_k > 0 && top_k < all {
            self.candidates.select_nth_unstable_by(top_k - 1, order);
            self.candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            self.candidates.sort_unstable_by(order);
            let total: f32 = self.candidates.iter().map(|c| c.0).sum();
            let mut mass = 0.0;
            let reached = self.candidates.iter().position(|c| {
                mass += c.0;
                mass >= top_p * total
            });
            self.candidates.truncate(reached.map_or(all, |i| i + 1));
        }
        if min_p > 0.0 {
            self.candidates.retain(|c| c.0 >= min_p);
        }
    }

    fn draw(&self, rng: &mut dyn Rng) -> u32 {
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.0)).sum();
        let mut left = rng.random::<f64>() * total;
        for &(weight, token) in &self.candidates {
            left -= f64::from(weight);
            if left < 0.0 {
                return token;
            }
        }
        // Rounding left a trace after the last; the most probable token always is a candidate.
        self.candidates.last().map_or(0, |c| c.1)
    }
}

/// The place of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> Option<usize> {
    let larger = |best: (usize, f32), x: (usize, f32)| if x.1 > best.1 { x } else { best };
    let best = values.iter().copied().enumerate().reduce(larger);
    best.map(|(i, _)| i)
}
