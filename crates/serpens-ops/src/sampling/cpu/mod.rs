//! Drawing on the processor: a pass for the largest logit, which also finds where large ones are, and one over the
//! weights where all tokens may be drawn; where top-k keeps a few, only theirs are computed.

mod candidates;
mod maxima;
mod weight;

use candidates::{Candidate, keep_largest, reach};
use maxima::Maxima;
pub(super) use weight::{FIXED, Law, Weights, fixed, scaled};
use weight::{STRETCH, Sums};

use super::{BadOption, Broken, History, SampleOptions, WINDOW};
use crate::simd::dispatch;

/// Candidates that top-p looks among first; it takes [`MORE`] times as many where they are too few.
pub(super) const FEW: usize = 64;
pub(super) const MORE: usize = 8;

/// Draws the tokens of one sequence; keeps its scratch, so that nothing is allocated per token.
pub struct Sampler {
    options: SampleOptions,
    law: Law,
    /// One for each token that has any.
    biases: Vec<(u32, f32)>,
    /// Logits after bias and penalties, where there are such.
    adjusted: Vec<f32>,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    maxima: Maxima,
    sums: Vec<u64>,
    candidates: Vec<Candidate>,
    /// The candidates' logits, and their weights.
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Sampler {
    /// A sampler with these options.
    ///
    /// # Errors
    /// Those of [`SampleOptions::check`].
    pub fn new(options: SampleOptions) -> Result<Self, BadOption> {
        options.check()?;
        Ok(Self {
            law: Law::new(&options),
            biases: biases(&options),
            options,
            adjusted: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// The next token by these logits, drawn with a number of the sequence's random stream.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &History,
        number: u64,
    ) -> Result<u32, Broken> {
        let adjusted = self.adjust(logits, history);
        let (scratch, options) = (&mut self.scratch, &self.options);
        let x = if adjusted { &self.adjusted } else { logits };
        let max = match scratch.maxima.find(x) {
            Err(_) if adjusted && scratch.maxima.find(logits).is_ok() => {
                return Err(Broken::Adjusted);
            }
            max => max?,
        };
        if options.temperature == 0.0 {
            return Ok(scratch.maxima.first(x, max) as u32);
        }
        let (law, top_k) = (self.law, options.top_k);
        if top_k > 0 && top_k < x.len() {
            scratch.collect(law, max, x, top_k);
            keep_largest(&mut scratch.candidates, top_k);
            let total = scratch.candidates.iter().map(|one| one.weight).sum();
            scratch.keep_nucleus(law, total);
        } else if law.nucleus > 0 {
            scratch.collect_nucleus(law, max, x);
        } else {
            return Ok(scratch.draw_of_all(law, max, x, number));
        }
        Ok(scratch.draw(law, number))
    }

    /// The bias and the penalties, where there are such.
    fn adjust(&mut self, logits: &[f32], history: &History) -> bool {
        let penalty = self.options.repetition_penalty;
        let (repeated, counted) = (penalty != 1.0, self.options.counts());
        if !self.options.adjusts() {
            return false;
        }
        let adjusted = &mut self.adjusted;
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        let mut change = |token: u32, changed: &dyn Fn(f32) -> f32| {
            if let Some(x) = adjusted.get_mut(token as usize) {
                *x = changed(*x);
            }
        };
        for &(token, bias) in &self.biases {
            change(token, &|x| x + bias);
        }
        if repeated {
            let mut recent = [0; WINDOW];
            let count = (recent.iter_mut().zip(history.recent()))
                .map(|(to, token)| *to = token)
                .count();
            let recent = &mut recent[..count];
            recent.sort_unstable();
            for same in recent.chunk_by(|a, b| a == b) {
                change(same[0], &|x| {
                    if x > 0.0 { x / penalty } else { x * penalty }
                });
            }
        }
        if counted {
            let options = &self.options;
            let (presence, frequency) = (options.presence_penalty, options.frequency_penalty);
            for (token, count) in history.drawn() {
                change(token, &|x| x - presence - count as f32 * frequency);
            }
        }
        true
    }
}

/// The bias of each token that has any, by token.
pub(super) fn biases(options: &SampleOptions) -> Vec<(u32, f32)> {
    let mut biases = options.logit_bias.clone();
    biases.sort_by_key(|(token, _)| *token);
    biases.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    biases
}

impl Scratch {
    /// The tokens of the `least` largest logits as candidates, with their weights, and some more.
    fn collect(&mut self, law: Law, max: f32, x: &[f32], least: usize) {
        self.candidates.clear();
        self.values.clear();
        let bound = self.maxima.bound(least);
        for (block, first) in self.maxima.blocks(x, bound) {
            for (&x, token) in block.iter().zip(first..) {
                if x >= bound {
                    self.candidates.push(Candidate::new(x, token));
                    self.values.push(x);
                }
            }
        }
        self.weights.resize(self.values.len(), 0.0);
        dispatch(Weights {
            law,
            max,
            x: &self.values,
            weights: &mut self.weights,
        });
        for (candidate, weight) in self.candidates.iter_mut().zip(&self.weights) {
            candidate.weight = fixed(*weight);
        }
    }

    /// The tokens that top-p keeps of all, as candidates.
    fn collect_nucleus(&mut self, law: Law, max: f32, x: &[f32]) {
        let all = Law { floor: 0.0, ..law };
        let total = self.sum(all, max, x);
        let mut least = FEW;
        loop {
            self.collect(law, max, x, least);
            let sum: u64 = self.candidates.iter().map(|one| one.weight).sum();
            if sum >= law.reached(total) {
                return self.keep_nucleus(law, total);
            }
            least *= MORE;
        }
    }

    /// Keeps of the candidates what top-p keeps, where all tokens kept so far sum to `total`.
    fn keep_nucleus(&mut self, law: Law, total: u64) {
        if law.nucleus > 0 {
            let need = law.reached(total);
            let kept = reach(&mut self.candidates, |one| one.rank, need);
            self.candidates.truncate(kept);
        }
    }

    /// Draws one of the candidates.
    fn draw(&mut self, law: Law, number: u64) -> u32 {
        self.candidates.retain(|one| one.weight >= law.least);
        let total = self.candidates.iter().map(|one| one.weight).sum();
        let need = scaled(number, total) + 1;
        let last = reach(&mut self.candidates, Candidate::place, need);
        self.candidates[last - 1].token()
    }

    /// The sums of stretches, and that of all.
    fn sum(&mut self, law: Law, max: f32, x: &[f32]) -> u64 {
        self.sums.resize(x.len().div_ceil(STRETCH), 0);
        let sums = &mut self.sums;
        dispatch(Sums { law, max, x, sums });
        self.sums.iter().sum()
    }

    /// Draws one of all tokens but those that min-p drops.
    fn draw_of_all(&mut self, law: Law, max: f32, x: &[f32], number: u64) -> u32 {
        let total = self.sum(law, max, x);
        let sums = self.sums.iter().copied();
        let (stretch, left) = exceeding(sums, scaled(number, total));
        let first = stretch * STRETCH;
        let x = &x[first..x.len().min(first + STRETCH)];
        self.weights.resize(x.len(), 0.0);
        let weights = &mut self.weights;
        dispatch(Weights {
            law,
            max,
            x,
            weights,
        });
        let drawable = |weight: &f32| match *weight >= law.floor {
            true => fixed(*weight),
            false => 0,
        };
        let weights = self.weights.iter().map(drawable);
        let (place, _) = exceeding(weights, left);
        (first + place) as u32
    }
}

/// The place of the first number with which the sum exceeds `need`, and what is left of that there; the first place
/// where there is none.
fn exceeding(numbers: impl Iterator<Item = u64>, mut need: u64) -> (usize, u64) {
    for (place, number) in numbers.enumerate() {
        if need < number {
            return (place, need);
        }
        need -= number;
    }
    (0, 0)
}
