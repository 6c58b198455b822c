//! The kernel against the definition, and the weights against the exponential.

use proptest::prelude::*;

use super::reference::{self, Before};
use super::{before, history, logits, options};
use crate::sampling::cpu::{FIXED, Law, Sampler, Weights, fixed};
use crate::sampling::{Broken, SampleOptions};
use crate::simd::Isa;

/// Logits after bias and penalties, as the contract says them: in f32, step by step.
pub(super) fn adjusted(options: &SampleOptions, logits: &[f32], before: &Before) -> Vec<f32> {
    let all = [&before.prompt[..], &before.drawn].concat();
    let recent = &all[all.len().saturating_sub(64)..];
    let adjust = |(token, x): (u32, &f32)| {
        let mut x = *x;
        let biases = options.logit_bias.iter().filter(|one| one.0 == token);
        if let Some(bias) = biases.map(|one| one.1).reduce(|a, b| a + b) {
            x += bias;
        }
        let penalty = options.repetition_penalty;
        if penalty != 1.0 && recent.contains(&token) {
            x = if x > 0.0 { x / penalty } else { x * penalty };
        }
        let count = before.drawn.iter().filter(|drawn| **drawn == token).count();
        if count > 0 {
            x = (x - options.presence_penalty) - count as f32 * options.frequency_penalty;
        }
        x
    };
    (0..).zip(logits).map(adjust).collect()
}

/// The weights of logits in fixed point.
pub(super) fn weights(options: &SampleOptions, x: &[f32], isa: Isa) -> Vec<u64> {
    let mut weights = vec![0.0; x.len()];
    isa.run(Weights {
        law: Law::new(options),
        max: x.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        x,
        weights: &mut weights,
    });
    weights.into_iter().map(fixed).collect()
}

/// Logits, options, the tokens before and some numbers.
pub(super) fn case() -> impl Strategy<Value = (Vec<f32>, SampleOptions, Before, [u64; 3])> {
    logits().prop_flat_map(|logits| {
        let tokens = logits.len() as u32;
        (
            Just(logits),
            options(tokens),
            before(tokens),
            [any::<u64>(), any::<u64>(), any::<u64>()],
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn draws_are_those_of_the_definition((logits, options, before, numbers) in case()) {
        let x = adjusted(&options, &logits, &before);
        let mut sampler = Sampler::new(options.clone()).unwrap();
        let history = history(&before);
        let broken = x.iter().all(|x| *x == f32::NEG_INFINITY);
        for number in numbers.into_iter().chain([0, u64::MAX]) {
            let drawn = sampler.sample(&logits, &history, number);
            let expected = if broken {
                let finite = logits.iter().any(|x| x.is_finite());
                Err(if finite { Broken::Adjusted } else { Broken::NotFinite })
            } else if options.temperature == 0.0 {
                Ok(reference::draw(&options, &x, &[], number))
            } else {
                let weights = weights(&options, &x, Isa::Portable);
                Ok(reference::draw(&options, &x, &weights, number))
            };
            prop_assert_eq!(drawn, expected);
        }
    }

    #[test]
    fn weights_are_the_same_on_every_instruction_set((logits, options, before, _) in case()) {
        let x = adjusted(&options, &logits, &before);
        if options.temperature > 0.0 && x.iter().any(|x| *x > f32::NEG_INFINITY) {
            let portable = weights(&options, &x, Isa::Portable);
            for isa in Isa::available() {
                prop_assert_eq!(&weights(&options, &x, isa), &portable, "{}", isa.name());
            }
        }
    }

    #[test]
    fn weights_are_as_near_to_the_exponential_as_is_said(
        logits in logits(),
        temperature in 0.05_f32..5.0,
    ) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        prop_assume!(max > f32::NEG_INFINITY);
        let options = SampleOptions { temperature, ..SampleOptions::default() };
        let one = 2.0_f64.powi(FIXED as i32);
        let weights = weights(&options, &logits, Isa::current());
        let distance = |x: &f32| (f64::from(max) - f64::from(*x)) / f64::from(temperature);
        let exactly: f64 = logits.iter().map(|x| (-distance(x)).exp()).sum();
        let total = weights.iter().sum::<u64>() as f64;
        for (x, weight) in logits.iter().zip(&weights) {
            let (weight, exact) = (*weight as f64, (-distance(x)).exp());
            let allowed = exact * (1.1e-7 + distance(x).min(1e3) * 2.0_f64.powi(-24)) + 0.5 / one;
            let error = (weight / one - exact).abs();
            prop_assert!(error <= allowed, "{} of {}: {} > {}", x, max, error, allowed);
            // A probability's error is that of its weight and that of the sum of all.
            let rounded = logits.len() as f64 * 0.5 / one;
            let allowed = exact / exactly * (4e-6 + rounded) + 0.5 / one;
            let error = (weight / total - exact / exactly).abs();
            prop_assert!(error <= allowed, "p of {}: {} > {}", x, error, allowed);
        }
    }
}

#[test]
fn fixed_point_rounds_to_the_nearest_and_to_even() {
    let one = 2.0_f32.powi(-(FIXED as i32));
    for (weight, expected) in [
        (1.0, 1 << FIXED),
        (0.5, 1 << (FIXED - 1)),
        (0.0, 0),
        (0.49 * one, 0),
        (0.5 * one, 0),
        (0.51 * one, 1),
        (1.5 * one, 2),
        (2.5 * one, 2),
        (one * (1 << 23) as f32, 1 << 23),
    ] {
        assert_eq!(fixed(weight), expected, "{weight:e}");
    }
}

#[test]
fn broken_logits_are_told_wherever_they_are() {
    let options = |temperature| SampleOptions {
        temperature,
        ..SampleOptions::default()
    };
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(options(temperature)).unwrap();
        let mut sample = |logits: &[f32]| sampler.sample(logits, &Default::default(), 7);
        assert_eq!(sample(&[]), Err(Broken::Empty));
        for size in [1, 15, 16, 64, 65, 200] {
            assert_eq!(
                sample(&vec![f32::NEG_INFINITY; size]),
                Err(Broken::NotFinite)
            );
            for place in [0, size / 2, size - 1] {
                let mut logits = vec![0.5; size];
                for (value, expected) in [
                    (f32::NAN, Broken::Nan),
                    (-f32::NAN, Broken::Nan),
                    (f32::INFINITY, Broken::NotFinite),
                ] {
                    logits[place] = value;
                    assert_eq!(
                        sample(&logits),
                        Err(expected),
                        "{value} at {place} of {size}"
                    );
                }
                logits[place] = f32::NEG_INFINITY;
                assert_eq!(sample(&logits).is_ok(), size > 1);
            }
        }
    }
}
