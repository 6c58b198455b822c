use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Error, History, SampleOptions, Sampler, log_sum_exp, most_probable};

fn counts(options: SampleOptions, logits: &[f32], history: &History, draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, history, &mut rng).unwrap() as usize] += 1;
    }
    counts
}

fn drawn(options: SampleOptions, logits: &[f32]) -> Vec<usize> {
    let counts = counts(options, logits, &History::default(), 4000);
    (0..counts.len()).filter(|&i| counts[i] > 0).collect()
}

#[test]
fn a_new_completion_forgets_what_was_drawn_but_not_what_was_recent() {
    let options = SampleOptions {
        frequency_penalty: 100.0,
        repetition_penalty: 1e9,
        temperature: 0.0,
        ..SampleOptions::default()
    };
    let mut history = History::default();
    history.draw(0);
    let first = |options: &SampleOptions, history: &History| {
        let counts = counts(options.clone(), &[3.0, 2.0], history, 1);
        counts.iter().position(|count| *count == 1).unwrap()
    };
    assert_eq!(first(&options, &history), 1);
    history.begin();
    assert_eq!(first(&options, &history), 1, "recent");
    let counting = SampleOptions {
        repetition_penalty: 1.0,
        ..options
    };
    assert_eq!(first(&counting, &history), 0, "not drawn in this one");
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    // Probabilities 1/2, 1/4, 1/8, 1/8, far from 0.
    let logits = [0.5_f64, 0.25, 0.125, 0.125].map(|p| (p.ln() + 90.0) as f32);
    assert!((log_sum_exp(&logits) - 90.0).abs() < 1e-5);
    let top = most_probable(&logits, 3);
    assert_eq!([top[0].0, top[1].0, top[2].0], [0, 1, 2]);
    for ((_, log_prob), p) in top.iter().zip([0.5_f64, 0.25, 0.125]) {
        assert!((log_prob - p.ln()).abs() < 1e-5);
    }
    assert_eq!(most_probable(&logits, 0), []);
    assert_eq!(most_probable(&logits, 9).len(), 4);
    assert_eq!(
        most_probable(&[f32::NEG_INFINITY, 0.0], 2),
        [(1, 0.0), (0, f64::NEG_INFINITY)]
    );
}

#[test]
fn zero_temperature_takes_the_first_of_the_largest() {
    let options = SampleOptions {
        temperature: 0.0,
        ..SampleOptions::default()
    };
    assert_eq!(drawn(options, &[0.0, 3.0, 3.0, -1.0]), [1]);
}

#[test]
fn one_seed_gives_the_same_tokens() {
    let logits: Vec<f32> = (0..50_280).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = || {
        let mut sampler = Sampler::new(SampleOptions::default()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let draw = |_| {
            sampler
                .sample(&logits, &History::default(), &mut rng)
                .unwrap()
        };
        (0..20).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn each_token_takes_64_bits_of_the_stream() {
    for temperature in [0.0, 1.0] {
        let options = SampleOptions {
            temperature,
            ..SampleOptions::default()
        };
        let mut sampler = Sampler::new(options).unwrap();
        let [mut rng, mut other] = [3; 2].map(ChaCha8Rng::seed_from_u64);
        for _ in 0..3 {
            let history = History::default();
            sampler.sample(&[0.1, 0.2], &history, &mut rng).unwrap();
            other.next_u64();
        }
        assert_eq!(rng.get_word_pos(), other.get_word_pos());
    }
}

#[test]
fn bad_options_and_bad_logits_are_refused() {
    let option = |change: fn(&mut SampleOptions)| {
        let mut options = SampleOptions::default();
        change(&mut options);
        Sampler::new(options).err()
    };
    assert!(option(|o| o.temperature = -1.0).is_some());
    assert!(option(|o| o.temperature = f32::NAN).is_some());
    assert!(option(|o| o.top_p = 0.0).is_some());
    assert!(option(|o| o.min_p = 1.0).is_some());
    assert!(option(|o| o.repetition_penalty = 0.0).is_some());
    assert!(option(|o| o.presence_penalty = f32::NAN).is_some());
    assert!(option(|o| o.frequency_penalty = f32::INFINITY).is_some());
    assert!(option(|o| o.logit_bias = vec![(0, 1.0), (1, f32::INFINITY)]).is_some());
    assert!(option(|o| o.logit_bias = vec![(1, f32::NEG_INFINITY)]).is_none());
    let mut sampler = Sampler::new(SampleOptions::default()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for logits in [&[f32::NAN, 0.0][..], &[], &[f32::NEG_INFINITY; 3]] {
        assert!(matches!(
            sampler.sample(logits, &History::default(), &mut rng),
            Err(Error::Logits(_))
        ));
    }
    let one = sampler.sample(&[f32::NEG_INFINITY, 0.5], &History::default(), &mut rng);
    assert!(matches!(one, Ok(1)), "{one:?}");
}
