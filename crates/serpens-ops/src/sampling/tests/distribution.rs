//! Many draws against the distribution of the definition.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::reference::{Before, probabilities};
use super::{history, options};
use crate::sampling::SampleOptions;
use crate::sampling::cpu::Sampler;

const DRAWS: usize = 20_000;

fn counts(options: &SampleOptions, logits: &[f32], before: &Before, seed: u64) -> Vec<usize> {
    let mut sampler = Sampler::new(options.clone()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let history = history(before);
    let mut counts = vec![0; logits.len()];
    for _ in 0..DRAWS {
        let token = sampler.sample(logits, &history, rng.next_u64()).unwrap();
        counts[token as usize] += 1;
    }
    counts
}

/// Pearson's χ² of the counts, in standard deviations above its mean; tokens of few draws are taken together.
fn excess(counts: &[usize], p: &[f64]) -> f64 {
    let (mut squares, mut cells) = (0.0, 0.0);
    let mut few = [0.0; 2];
    for (count, p) in counts.iter().zip(p) {
        let (count, expected) = (*count as f64, p * DRAWS as f64);
        if expected < 8.0 {
            few = [few[0] + count, few[1] + expected];
            continue;
        }
        squares += (count - expected).powi(2) / expected;
        cells += 1.0;
    }
    if few[1] >= 8.0 {
        squares += (few[0] - few[1]).powi(2) / few[1];
        cells += 1.0;
    } else {
        assert!(few[0] <= few[1] + 8.0 + 6.0 * few[1].sqrt(), "{few:?}");
    }
    let freedom: f64 = cells - 1.0;
    if freedom < 1.0 {
        0.0
    } else {
        (squares - freedom) / (2.0 * freedom).sqrt()
    }
}

#[test]
fn draws_follow_the_definition_under_each_option() {
    let logits = [1.0_f32, 0.0, 2.0, -1.0, f32::NEG_INFINITY, 0.5, 0.25, -2.0];
    let with = |change: fn(&mut SampleOptions)| {
        let mut options = SampleOptions::default();
        change(&mut options);
        options
    };
    // The window ends before the first tokens of the prompt.
    let before = Before {
        prompt: [&[5_u32; 3][..], &[0; 63]].concat(),
        drawn: vec![2, 3, 2],
    };
    for options in [
        with(|_| ()),
        with(|o| o.temperature = 0.0),
        with(|o| o.temperature = 0.5),
        with(|o| o.temperature = 2.0),
        with(|o| o.top_k = 3),
        with(|o| o.top_p = 0.7),
        with(|o| o.min_p = 0.2),
        with(|o| o.repetition_penalty = 1.5),
        with(|o| o.repetition_penalty = 0.5),
        with(|o| o.presence_penalty = 0.7),
        with(|o| o.frequency_penalty = 0.7),
        with(|o| (o.presence_penalty, o.frequency_penalty) = (-0.3, 0.4)),
        with(|o| o.logit_bias = vec![(0, 1.0), (2, f32::NEG_INFINITY)]),
        with(|o| o.logit_bias = vec![(0, 0.5), (7, 3.0), (0, 0.5)]),
    ] {
        let expected = probabilities(&options, &logits, &before);
        let counts = counts(&options, &logits, &before, 17);
        let excess = excess(&counts, &expected);
        assert!(
            excess < 5.0,
            "{options:?}: {counts:?}, {expected:?}: {excess}"
        );
        assert_eq!(counts[4], 0);
        for (count, p) in counts.iter().zip(&expected) {
            assert!(*p > 0.0 || *count == 0, "{options:?}: {counts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(12), ..ProptestConfig::with_cases(60) })]

    #[test]
    fn draws_follow_the_definition_under_combinations(
        options in options(400),
        logits in prop::collection::vec(-6.0_f32..3.0, 400),
        prompt in prop::collection::vec(0..400_u32, 0..90),
        drawn in prop::collection::vec(0..400_u32, 0..20),
        seed in any::<u64>(),
    ) {
        let before = Before { prompt, drawn };
        let expected = probabilities(&options, &logits, &before);
        let counts = counts(&options, &logits, &before, seed);
        let excess = excess(&counts, &expected);
        prop_assert!(excess < 6.0, "{}", excess);
    }
}
