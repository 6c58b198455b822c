//! Markov models: the next token by how often it followed the last ones.

use rayon::prelude::*;

use crate::error::{Result, check_size};
use crate::source::IGNORE;

/// The most counts of the highest order: 512 MiB.
const MOST: usize = 1 << 27;

/// A token of a stream, and what is to be predicted behind it: an input and a target of a [`Batch`](crate::Batch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether the context begins anew with it.
    pub starts: bool,
    /// The token, which is in the context of this target and of later ones.
    pub token: u32,
    /// The token that follows; [`IGNORE`] where it is neither counted nor predicted.
    pub target: u32,
}

/// A Markov model of some order m, with back-off to shorter contexts:
///
/// p_k(s | c) = (n(c s) + a_k p_{k-1}(s | c')) / (n(c) + a_k)
///
/// for the last k tokens c (c' without the oldest), n the counts, and p_{-1} = 1 / vocabulary. The weights a_k are those
/// of powers of two that predict a second stream best ([`tune`](Self::tune)), so that no order makes it worse there.
///
/// Source: MacKay and Peto, A hierarchical Dirichlet language model, 1995.
#[derive(Clone, Debug)]
pub struct Markov {
    vocab: usize,
    /// Of contexts of 0, 1, … tokens. // each (vocab^k, vocab)
    counts: Vec<Vec<u32>>,
    /// a_k.
    weights: Vec<f64>,
}

/// The weights that are tried are the powers of two up to this one; beyond it an order hardly counts.
const LARGEST_WEIGHT: i32 = 20;

/// The last tokens as a number, the oldest first.
#[derive(Clone, Default)]
struct Context {
    number: usize,
    tokens: usize,
}

impl Markov {
    /// Counts a stream. The order is lowered until vocab^(order + 1) is at most 2^27; see [`order`](Self::order).
    ///
    /// # Errors
    /// A vocabulary of 0 or more than 2^27 tokens; a token or target beyond it.
    pub fn new(vocab: usize, order: usize, steps: impl IntoIterator<Item = Step>) -> Result<Self> {
        check_size("markov", "vocab", vocab, 1..=MOST)?;
        let sizes = (0..=order.min(26)).map_while(|k| vocab.checked_pow(k as u32 + 1));
        let sizes = sizes.take_while(|&size| size <= MOST);
        let counts: Vec<Vec<u32>> = sizes.map(|size| vec![0; size]).collect();
        let mut markov = Self {
            vocab,
            weights: vec![vocab as f64; counts.len()],
            counts,
        };
        let mut context = Context::default();
        for step in steps {
            if let Some(target) = markov.target(&mut context, step)? {
                let count = &mut markov.counts[context.tokens][context.number * vocab + target];
                *count = count.saturating_add(1);
            }
        }
        // Counted was the longest context alone: those of shorter ones are the sums over their oldest token.
        for k in (1..markov.counts.len()).rev() {
            let (shorter, longer) = markov.counts.split_at_mut(k);
            for oldest in longer[0].chunks_exact(shorter[k - 1].len()) {
                for (sum, count) in shorter[k - 1].iter_mut().zip(oldest) {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        Ok(markov)
    }

    /// Chooses the weights that predict a stream best, from the shortest context to the longest, and counts it too.
    ///
    /// # Errors
    /// A token or target beyond the vocabulary.
    pub fn tune(&mut self, steps: impl IntoIterator<Item = Step>) -> Result<()> {
        let (mut context, mut all) = (Context::default(), Vec::new());
        for step in steps {
            if let Some(target) = self.target(&mut context, step)? {
                all.push((context.clone(), target, 1.0 / self.vocab as f64));
            }
        }
        for order in 0..self.counts.len() {
            let known = |(context, target, lower): &(Context, usize, f64)| {
                let row = (context.tokens >= order).then(|| self.row(context, order))?;
                Some((f64::from(row[*target]), sum(row), *lower))
            };
            let known: Vec<Option<(f64, f64, f64)>> = all.iter().map(known).collect();
            let log = |weight: f64| -> f64 {
                let logs = known.iter().flatten();
                logs.map(|(count, all, lower)| ((count + weight * lower) / (all + weight)).ln())
                    .sum()
            };
            let weights = (0..=LARGEST_WEIGHT).into_par_iter();
            let weights = weights.map(|power| 2.0_f64.powi(power));
            let logs: Vec<(f64, f64)> = weights.map(|weight| (log(weight), weight)).collect();
            let best = logs.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
            let (_, weight) = best.expect("there are some");
            for (one, known) in all.iter_mut().zip(known) {
                if let Some((count, all, lower)) = known {
                    one.2 = (count + weight * lower) / (all + weight);
                }
            }
            self.weights[order] = weight;
        }
        for (context, target, _) in all {
            for order in 0..=context.tokens {
                let at = self.place(&context, order) + target;
                self.counts[order][at] = self.counts[order][at].saturating_add(1);
            }
        }
        Ok(())
    }

    /// The most tokens that a context has.
    pub fn order(&self) -> usize {
        self.counts.len() - 1
    }

    /// Σ -log2 p over the targets of a stream, of the model that looks at 0, 1, … tokens at most.
    ///
    /// # Errors
    /// A token or target beyond the vocabulary.
    pub fn bits(&self, steps: impl IntoIterator<Item = Step>) -> Result<Vec<f64>> {
        let (mut context, mut bits) = (Context::default(), vec![0.0; self.counts.len()]);
        for step in steps {
            if let Some(target) = self.target(&mut context, step)? {
                let mut probability = 1.0 / self.vocab as f64;
                for (order, bits) in bits.iter_mut().enumerate() {
                    if order <= context.tokens {
                        probability = self.probability(&context, order, target, probability);
                    }
                    *bits -= probability.log2();
                }
            }
        }
        Ok(bits)
    }

    /// Takes a token into the context; the target, if there is one.
    fn target(&self, context: &mut Context, step: Step) -> Result<Option<usize>> {
        if step.starts {
            *context = Context::default();
        }
        let known = 0..=self.vocab - 1;
        check_size("markov", "token", step.token as usize, known.clone())?;
        if self.order() > 0 {
            let kept = self.counts[self.order() - 1].len(); // vocab^order
            context.number = wrapped(context.number * self.vocab + step.token as usize, kept);
            context.tokens = (context.tokens + 1).min(self.order());
        }
        if step.target == IGNORE {
            return Ok(None);
        }
        check_size("markov", "target", step.target as usize, known)?;
        Ok(Some(step.target as usize))
    }

    /// Where the counts behind the last `order` tokens begin.
    fn place(&self, context: &Context, order: usize) -> usize {
        wrapped(context.number, self.counts[order].len() / self.vocab) * self.vocab
    }

    fn row(&self, context: &Context, order: usize) -> &[u32] {
        &self.counts[order][self.place(context, order)..][..self.vocab]
    }

    /// p_k of a token, from p_{k-1}.
    fn probability(&self, context: &Context, order: usize, token: usize, lower: f64) -> f64 {
        let (row, weight) = (self.row(context, order), self.weights[order]);
        (f64::from(row[token]) + weight * lower) / (sum(row) + weight)
    }
}

fn sum(counts: &[u32]) -> f64 {
    let all: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    all as f64
}

/// number mod size; a division takes longer than all else that is done for a token.
fn wrapped(number: usize, size: usize) -> usize {
    match size.is_power_of_two() {
        true => number & (size - 1),
        false => number % size,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Documents of numbers that depend on the two before, as steps.
    fn stream(vocab: u32, documents: u32, seed: u32) -> Vec<Step> {
        let (mut steps, mut state) = (Vec::new(), seed);
        let mut next = |a: u32, b: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (a * 3 + b + (state >> 24) % 2) % vocab
        };
        for document in 0..documents {
            let (mut a, mut b) = (0, document % vocab);
            for place in 0..document % 40 {
                let c = next(a, b);
                let target = if place % 7 == 3 { IGNORE } else { c };
                steps.push(Step {
                    starts: place == 0,
                    token: b,
                    target,
                });
                (a, b) = (b, c);
            }
        }
        steps
    }

    /// The definition over a map from a context and what follows to how often.
    fn defined(
        counts: &HashMap<Vec<u32>, f64>,
        weights: &[f64],
        vocab: u32,
        context: &[u32],
        s: u32,
    ) -> f64 {
        let lower = match context {
            [] => 1.0 / f64::from(vocab),
            [_, shorter @ ..] => defined(counts, weights, vocab, shorter, s),
        };
        let count = |s: u32| {
            counts
                .get(&[context, &[s]].concat())
                .copied()
                .unwrap_or(0.0)
        };
        let n: f64 = (0..vocab).map(count).sum();
        let weight = weights[context.len()];
        (count(s) + weight * lower) / (n + weight)
    }

    #[test]
    fn bits_are_those_of_the_definition() {
        for (vocab, order) in [(4, 3), (3, 0), (5, 1), (2, 6), (1, 2)] {
            let contexts = |steps: &[Step]| {
                let mut seen = Vec::new();
                let contexts = steps.iter().map(|step| {
                    if step.starts {
                        seen.clear();
                    }
                    seen.push(step.token);
                    (
                        seen[seen.len().saturating_sub(order)..].to_vec(),
                        step.target,
                    )
                });
                let targets: Vec<_> = contexts.filter(|(_, target)| *target != IGNORE).collect();
                targets
            };
            let (train, held) = (stream(vocab, 60, 1), stream(vocab, 90, 2));
            let second = stream(vocab, 30, 3);
            let mut markov = Markov::new(vocab as usize, order, train.clone()).unwrap();
            markov.tune(second.clone()).unwrap();
            let mut counts = HashMap::new();
            for (context, target) in contexts(&train).into_iter().chain(contexts(&second)) {
                for skipped in 0..=context.len() {
                    *counts
                        .entry([&context[skipped..], &[target]].concat())
                        .or_default() += 1.0;
                }
            }
            let expected = contexts(&held);
            let bits = expected.iter().map(|(context, target)| {
                -defined(&counts, &markov.weights, vocab, context, *target).log2()
            });
            let bits: f64 = bits.sum();
            assert_eq!(markov.order(), order);
            let found = *markov.bits(held).unwrap().last().unwrap();
            assert!((found - bits).abs() <= 1e-9 * bits, "{found} for {bits}");
        }
    }

    #[test]
    fn orders_that_tell_nothing_are_weighed_so_that_they_do_no_harm() {
        let (train, second, held) = (stream(4, 400, 1), stream(4, 150, 2), stream(4, 150, 3));
        let bits = |order: usize, tuned: bool| {
            let mut markov = Markov::new(4, order, train.clone()).unwrap();
            if tuned {
                markov.tune(second.clone()).unwrap();
            }
            let targets = held.iter().filter(|step| step.target != IGNORE).count();
            markov.bits(held.clone()).unwrap()[order] / targets as f64
        };
        // Two tokens tell all that there is to know, which is one bit.
        let [two, nine] = [2, 9].map(|order| bits(order, true));
        assert!(
            (0.95..1.1).contains(&two) && nine < 1.01 * two,
            "{two} {nine}"
        );
        assert!(bits(9, false) > 1.05 * nine);
    }

    #[test]
    fn probabilities_sum_to_one() {
        let markov = Markov::new(6, 4, stream(6, 50, 3)).unwrap();
        for tokens in 0..=4 {
            for number in 0..6_usize.pow(tokens as u32) {
                let context = Context { number, tokens };
                let of = |token| {
                    let lower = 1.0 / 6.0;
                    let orders = 0..=tokens;
                    orders.fold(lower, |lower, order| {
                        markov.probability(&context, order, token, lower)
                    })
                };
                let sum: f64 = (0..6).map(of).sum();
                assert!((sum - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn orders_are_lowered_to_fit_and_tokens_beyond_refused() {
        for (vocab, order, expected) in [(256, 5, 2), (4, 12, 12), (4, 13, 12), (1 << 20, 3, 0)] {
            assert_eq!(Markov::new(vocab, order, []).unwrap().order(), expected);
        }
        let step = Step {
            starts: true,
            token: 4,
            target: 0,
        };
        let error = Markov::new(4, 1, [step]).unwrap_err().to_string();
        assert_eq!(error, "markov: token is 4: set it to at most 3");
        assert!(Markov::new(0, 1, []).is_err());
    }
}
