//! Where what is kept ends exactly.

use crate::sampling::SampleOptions;
use crate::sampling::cpu::Sampler;

/// The tokens that are drawn by numbers all over their range.
fn drawn(options: &SampleOptions, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(options.clone()).unwrap();
    let numbers = (0..=4096_u64).map(|i| (i << 52).wrapping_sub(u64::from(i == 4096)));
    let draw = |number| sampler.sample(logits, &Default::default(), number).unwrap();
    let mut tokens: Vec<u32> = numbers.map(draw).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

fn with(change: impl FnOnce(&mut SampleOptions)) -> SampleOptions {
    let mut options = SampleOptions::default();
    change(&mut options);
    options
}

#[test]
fn top_k_takes_the_lower_of_equal_tokens() {
    let logits = [0.0_f32, 1.0, 0.0, 1.0, 0.0, -0.0, 1.0];
    let kept = |k| drawn(&with(|o| o.top_k = k), &logits);
    assert_eq!(kept(1), [1]);
    assert_eq!(kept(2), [1, 3]);
    assert_eq!(kept(4), [0, 1, 3, 6]);
    assert_eq!(kept(6), [0, 1, 2, 3, 4, 6]);
    assert_eq!(kept(7), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(kept(8), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(kept(0), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn top_p_that_is_reached_exactly_keeps_no_more() {
    // Each has a quarter, exactly; 0.1 more or less by a float.
    let logits = [2.0_f32; 4];
    let kept = |p| drawn(&with(|o| o.top_p = p), &logits);
    assert_eq!(kept(0.25), [0]);
    assert_eq!(kept(0.25_f32.next_up()), [0, 1]);
    assert_eq!(kept(0.5), [0, 1]);
    assert_eq!(kept(0.75_f32.next_down()), [0, 1, 2]);
    assert_eq!(kept(0.75_f32.next_up()), [0, 1, 2, 3]);
    assert_eq!(kept(1.0_f32.next_down()), [0, 1, 2, 3]);
    assert_eq!(kept(1e-30), [0]);
    // Of the two that top-k keeps each has a half.
    let of_two = |p| drawn(&with(|o| (o.top_k, o.top_p) = (2, p)), &logits);
    assert_eq!(of_two(0.5), [0]);
    assert_eq!(of_two(0.5_f32.next_up()), [0, 1]);
}

#[test]
fn min_p_keeps_what_equals_it() {
    // At the temperature log2 e the weights are powers of two: 1, 1/2, 1/4, 1/8.
    let logits = [0.0_f32, -1.0, -2.0, -3.0];
    let temperature = std::f32::consts::LOG2_E;
    let kept = |p| {
        drawn(
            &with(|o| (o.temperature, o.min_p) = (temperature, p)),
            &logits,
        )
    };
    let nearly = 2e-7; // log2 e is no float
    assert_eq!(kept(0.5 - nearly), [0, 1]);
    assert_eq!(kept(0.5 + nearly), [0]);
    assert_eq!(kept(0.125 - nearly), [0, 1, 2, 3]);
    assert_eq!(kept(0.125 + nearly), [0, 1, 2]);
    // Equal logits have weight 1, whatever is asked.
    assert_eq!(
        drawn(&with(|o| o.min_p = 1.0_f32.next_down()), &[3.0, 3.0, 2.9]),
        [0, 1]
    );
}

#[test]
fn the_first_and_the_last_number_draw_the_first_and_the_last_token() {
    for size in [1_u32, 63, 64, 1025, 3000] {
        let logits: Vec<f32> = (0..size).map(|i| (i as f32 * 0.37).sin()).collect();
        for options in [
            with(|_| ()),
            with(|o| o.top_p = 0.9999),
            with(|o| o.min_p = 1e-6),
        ] {
            let mut sampler = Sampler::new(options).unwrap();
            let mut draw = |number| sampler.sample(&logits, &Default::default(), number);
            let last = draw(u64::MAX).unwrap();
            assert_eq!(draw(0), Ok(0));
            assert!(
                last + 1 == size || size > 1000 && last + 20 > size,
                "{last} of {size}"
            );
        }
    }
}
