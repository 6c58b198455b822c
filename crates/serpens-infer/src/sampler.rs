//! From logits to a token.
//!
//! In this order, for the logit x of each token:
//! 1. the bias: x + b, of the tokens that have one;
//! 2. the repetition penalty θ of Hugging Face: x / θ where x > 0 and x θ elsewhere, of the [`WINDOW`] tokens before,
//!    those of the prompt among them; each once, however often it is there;
//! 3. the presence and frequency penalties of OpenAI: x − presence − count · frequency, of tokens that were drawn
//!    count > 0 times, those of the prompt not among them;
//! 4. the temperature T: x / T;
//! 5. top-k keeps the k largest; top-p the fewest tokens whose probabilities, among those kept so far, reach p; min-p
//!    drops tokens below min_p times the largest probability.
//!
//! One of the rest is drawn by its probability, p_i ∝ exp(x_i / T). T = 0 takes the largest logit, the first of equals.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

use rand::{Rng, RngExt};
use smart_default::SmartDefault;

use crate::{Error, Result};

/// How many tokens back the repetition penalty looks.
pub const WINDOW: usize = 64;

/// How to draw. The default draws from the model's own distribution.
#[derive(Clone, Debug, PartialEq, SmartDefault)]
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
    /// θ > 0; above 1 makes recent tokens less probable.
    #[default = 1.0]
    pub repetition_penalty: f32,
    /// Above 0 makes tokens that were drawn less probable.
    pub presence_penalty: f32,
    /// Above 0 makes tokens less probable the more often they were drawn.
    pub frequency_penalty: f32,
    /// What is added to the logits of these tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
}

impl SampleOptions {
    /// Refuses options outside their ranges.
    ///
    /// # Errors
    /// [`Error::SampleOption`].
    pub fn check(&self) -> Result<()> {
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        let (top_p, min_p) = (self.top_p, self.min_p);
        let mut biases = self.logit_bias.iter().map(|(_, bias)| *bias);
        let (name, value, expected) = if !(0.0..f32::INFINITY).contains(&temperature) {
            ("temperature", temperature, "it is at least 0")
        } else if !(Excluded(0.0), Included(1.0)).contains(&top_p) {
            ("top-p", top_p, "it lies above 0 and up to 1")
        } else if !(0.0..1.0).contains(&min_p) {
            ("min-p", min_p, "it lies from 0 to below 1")
        } else if !(Excluded(0.0), Excluded(f32::INFINITY)).contains(&penalty) {
            ("repetition penalty", penalty, "it is above 0")
        } else if !self.presence_penalty.is_finite() {
            ("presence penalty", self.presence_penalty, "it is a number")
        } else if !self.frequency_penalty.is_finite() {
            (
                "frequency penalty",
                self.frequency_penalty,
                "it is a number",
            )
        } else if let Some(bias) = biases.find(|bias| bias.is_nan() || *bias == f32::INFINITY) {
            ("logit bias", bias, "it is a number, or -inf for none of it")
        } else {
            return Ok(());
        };
        Err(Error::SampleOption {
            name,
            value,
            expected,
        })
    }
}

/// The tokens before the next one, as far as penalties ask for them.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last ones, [`WINDOW`] at most.
    recent: VecDeque<u32>,
    /// How often each was drawn.
    drawn: HashMap<u32, u32>,
}

impl History {
    /// Forgets what was drawn: another completion begins.
    pub fn begin(&mut self) {
        self.drawn.clear();
    }

    /// Goes on with tokens that were read.
    pub fn read(&mut self, tokens: &[u32]) {
        let kept = tokens.len().saturating_sub(WINDOW);
        self.recent.extend(&tokens[kept..]);
        self.recent
            .drain(..self.recent.len().saturating_sub(WINDOW));
    }

    /// Goes on with a token that was drawn.
    pub fn draw(&mut self, token: u32) {
        self.read(&[token]);
        *self.drawn.entry(token).or_default() += 1;
    }

    /// The last tokens, [`WINDOW`] at most.
    pub fn recent(&self) -> impl Iterator<Item = u32> {
        self.recent.iter().copied()
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
    ///
    /// # Errors
    /// Those of [`SampleOptions::check`].
    pub fn new(options: SampleOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            options,
            logits: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// The next token.
    ///
    /// # Errors
    /// [`Error::Logits`].
    pub fn sample(&mut self, logits: &[f32], history: &History, rng: &mut dyn Rng) -> Result<u32> {
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::Logits("NaN"));
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.adjust(history);
        let best = argmax(&self.logits).ok_or(Error::Logits("nothing"))?;
        if !self.logits[best].is_finite() {
            return Err(Error::Logits("no finite largest value"));
        }
        if self.options.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.weigh(self.logits[best]);
        self.restrict();
        Ok(self.draw(rng))
    }

    /// The bias and the penalties.
    fn adjust(&mut self, history: &History) {
        let Self {
            options, logits, ..
        } = self;
        let mut change = |token: u32, changed: &dyn Fn(f32) -> f32| {
            if let Some(x) = logits.get_mut(token as usize) {
                *x = changed(*x);
            }
        };
        for &(token, bias) in &options.logit_bias {
            change(token, &|x| x + bias);
        }
        let penalty = options.repetition_penalty;
        if penalty != 1.0 {
            let recent: BTreeSet<u32> = history.recent().collect();
            for token in recent {
                change(token, &|x| if x > 0.0 { x / penalty } else { x * penalty });
            }
        }
        let (presence, frequency) = (options.presence_penalty, options.frequency_penalty);
        if presence != 0.0 || frequency != 0.0 {
            for (&token, &count) in &history.drawn {
                change(token, &|x| x - presence - count as f32 * frequency);
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
        let (top_k, top_p) = (self.options.top_k, self.options.top_p);
        let min_p = self.options.min_p;
        if top_k > 0 {
            keep_largest(&mut self.candidates, top_k);
        }
        if top_p < 1.0 {
            self.candidates.sort_unstable_by(by_falling);
            let total: f32 = self.candidates.iter().map(|c| c.0).sum();
            let mut mass = 0.0;
            let reached = self.candidates.iter().position(|c| {
                mass += c.0;
                mass >= top_p * total
            });
            self.candidates
                .truncate(reached.map_or(usize::MAX, |i| i + 1));
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
    let mut tokens: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
    keep_largest(&mut tokens, n);
    tokens.sort_unstable_by(by_falling);
    let normaliser = log_sum_exp(logits);
    let of = |(x, token)| (token, f64::from(x) - normaliser);
    tokens.into_iter().map(of).collect()
}

/// By falling value, and by token among equals.
fn by_falling(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn keep_largest(tokens: &mut Vec<(f32, u32)>, n: usize) {
    if n > 0 && n < tokens.len() {
        tokens.select_nth_unstable_by(n - 1, by_falling);
    }
    tokens.truncate(n);
}
