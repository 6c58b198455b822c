use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

fn counts(options: SampleOptions, logits: &[f32], recent: &[u32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, recent, &mut rng).unwrap() as usize] += 1;
    }
    counts
}

fn drawn(options: SampleOptions, logits: &[f32]) -> Vec<usize> {
    let counts = counts(options, logits, &[], 4000);
    (0..counts.len()).filter(|&i| counts[i] > 0).collect()
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [1.0_f32, 0.0, 2.0, -1.0, f32::NEG_INFINITY];
    for temperature in [0.5, 1.0, 2.0] {
        let options = SampleOptions {
            temperature,
            ..SampleOptions::default()
        };
        let n = 20_000;
        let counts = counts(options, &logits, &[], n);
        let weights: Vec<f64> = logits
            .iter()
            .map(|x| f64::from(x / temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let p = weight / total;
            let deviation = (n as f64 * p * (1.0 - p)).sqrt();
            assert!((*count as f64 - n as f64 * p).abs() <= 4.0 * deviation);
        }
        assert_eq!(counts[4], 0);
    }
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
fn the_penalty_lowers_recent_tokens_whatever_their_sign() {
    let logits = [2.0, -1.0, 2.0, -1.0];
    let options = SampleOptions {
        repetition_penalty: 2.0,
        ..SampleOptions::default()
    };
    let counts = counts(options, &logits, &[0, 1, 0, 99], 8000);
    assert!(
        counts[0] * 2 < counts[2] && counts[1] < counts[3],
        "{counts:?}"
    );
}

#[test]
fn one_seed_gives_the_same_tokens() {
    let logits: Vec<f32> = (0..50_280).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = || {
        let mut sampler = Sampler::new(SampleOptions::default()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let draw = |_| sampler.sample(&logits, &[], &mut rng).unwrap();
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
    let mut sampler = Sampler::new(SampleOptions::default()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for logits in [&[f32::NAN, 0.0][..], &[], &[f32::NEG_INFINITY; 3]] {
        assert!(matches!(
            sampler.sample(logits, &[], &mut rng),
            Err(SampleError::Logits(_))
        ));
    }
    let one = sampler.sample(&[f32::NEG_INFINITY, 0.5], &[], &mut rng);
    assert_eq!(one, Ok(1));
}
