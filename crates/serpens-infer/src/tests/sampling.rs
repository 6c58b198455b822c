use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::{Error, History, SampleOptions, Sampler, WINDOW, log_sum_exp, most_probable};

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

/// The distribution by its definition, in f64; `prompt` and `drawn` came before.
fn reference(options: &SampleOptions, logits: &[f32], prompt: &[u32], drawn: &[u32]) -> Vec<f64> {
    let mut x: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
    for (token, bias) in &options.logit_bias {
        x[*token as usize] += f64::from(*bias);
    }
    let before = [prompt, drawn].concat();
    let window = &before[before.len().saturating_sub(WINDOW)..];
    for (token, x) in x.iter_mut().enumerate() {
        let token = token as u32;
        let penalty = f64::from(options.repetition_penalty);
        if window.contains(&token) {
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
        let count = drawn.iter().filter(|drawn| **drawn == token).count();
        if count > 0 {
            *x -= f64::from(options.presence_penalty);
            *x -= count as f64 * f64::from(options.frequency_penalty);
        }
        *x /= f64::from(options.temperature);
    }
    let weights: Vec<f64> = x.into_iter().map(f64::exp).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[test]
fn draws_follow_the_definition() {
    let logits = [1.0_f32, 0.0, 2.0, -1.0, f32::NEG_INFINITY, 0.5];
    let with = |change: fn(&mut SampleOptions)| {
        let mut options = SampleOptions::default();
        change(&mut options);
        options
    };
    // The window ends before the first tokens of the prompt.
    let prompt = [&[5_u32; 3][..], &[0; WINDOW - 1]].concat();
    let drawn = [2, 3, 2];
    let mut history = History::default();
    history.read(&prompt);
    drawn.iter().for_each(|token| history.draw(*token));
    for options in [
        with(|_| ()),
        with(|o| o.temperature = 0.5),
        with(|o| o.temperature = 2.0),
        with(|o| o.repetition_penalty = 1.5),
        with(|o| o.repetition_penalty = 0.5),
        with(|o| o.presence_penalty = 0.7),
        with(|o| o.frequency_penalty = 0.7),
        with(|o| (o.presence_penalty, o.frequency_penalty) = (-0.3, 0.4)),
        with(|o| o.logit_bias = vec![(0, 1.0), (2, f32::NEG_INFINITY)]),
        with(|o| {
            o.logit_bias = vec![(3, 2.5)];
            (
                o.repetition_penalty,
                o.presence_penalty,
                o.frequency_penalty,
            ) = (1.2, 0.1, 0.2);
            o.temperature = 1.3;
        }),
    ] {
        let n = 20_000;
        let expected = reference(&options, &logits, &prompt, &drawn);
        let counts = counts(options.clone(), &logits, &history, n);
        for (count, p) in counts.iter().zip(&expected) {
            let deviation = (n as f64 * p * (1.0 - p)).sqrt();
            assert!(
                (*count as f64 - n as f64 * p).abs() <= 4.0 * deviation,
                "{options:?}: {counts:?}, {expected:?}"
            );
        }
        assert_eq!(counts[4], 0);
    }
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
fn top_k_top_p_and_min_p_keep_what_they_say() {
    // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
    let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.0625, 0.0625].map(f32::ln).to_vec();
    let with = |change: fn(&mut SampleOptions)| {
        let mut options = SampleOptions::default();
        change(&mut options);
        drawn(options, &logits)
    };
    assert_eq!(with(|o| o.top_k = 2), [0, 1]);
    assert_eq!(with(|o| o.top_k = 4), [0, 1, 2, 3]);
    assert_eq!(with(|o| o.top_p = 0.7), [0, 1]);
    assert_eq!(with(|o| o.top_p = 0.76), [0, 1, 2]);
    assert_eq!(with(|o| o.top_p = 0.01), [0]);
    assert_eq!(with(|o| o.min_p = 0.2), [0, 1, 2]);
    assert_eq!(with(|o| (o.top_k, o.top_p) = (3, 0.6)), [0, 1]);
    assert_eq!(with(|_| ()), [0, 1, 2, 3, 4]);
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
