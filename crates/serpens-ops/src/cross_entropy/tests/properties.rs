//! Cross-entropy against its f64 reference, on every instruction set.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::reference;
use crate::cross_entropy::cpu;
use crate::cross_entropy::cpu::{Backward, Forward, IGNORE, Totals};
use crate::shared::tests::dense::largest_of_neighbours;
use crate::simd::Isa;

/// Logits in ±`range` and targets, each fifth row ignored where `ignore` asks for it.
fn case(seed: u64, rows: usize, vocab: usize, range: f32, ignore: bool) -> (Vec<f32>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let logits = (0..rows * vocab)
        .map(|_| rng.random_range(-range..range))
        .collect();
    let targets = (0..rows)
        .map(|r| match ignore && r % 5 == 1 {
            true => IGNORE,
            false => rng.random_range(0..vocab as u32),
        })
        .collect();
    (logits, targets)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn worst(computed: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(computed.len(), exact.len());
    computed
        .iter()
        .zip(exact)
        .fold(0.0, |worst: f64, (&c, &e)| {
            let error = (f64::from(c) - e).abs();
            assert!(!error.is_nan(), "{c} for {e}");
            worst.max(error)
        })
}

/// Holds loss and gradient to twice the error of plain f32 (the largest of a few neighbours: of few logits it may be
/// exact by luck), on every instruction set.
fn hold(logits: &[f32], targets: &[u32], vocab: usize) {
    let exact = reference::forward(&wide(logits), targets, vocab);
    let exact_gradient = reference::backward(&wide(logits), targets, vocab, 1.0);
    let [plain_sum, plain_gradient] = largest_of_neighbours(|factor| {
        let logits: Vec<f32> = logits.iter().map(|x| x * factor as f32).collect();
        let sum = reference::forward(&wide(&logits), targets, vocab).sum;
        let gradient = reference::backward(&wide(&logits), targets, vocab, 1.0);
        [
            (reference::forward(&logits, targets, vocab).sum - sum).abs(),
            worst(
                &reference::backward(&logits, targets, vocab, 1.0),
                &gradient,
            ),
        ]
    });
    let epsilon = f64::from(f32::EPSILON);
    let sum_bound = 2.0 * plain_sum + epsilon * (exact.count as f64 + exact.sum.abs());
    let gradient_bound = 2.0 * plain_gradient + epsilon;
    for isa in Isa::available() {
        let mut norms = vec![[f32::NAN; 2]; targets.len()];
        let loss = isa.run(Forward {
            logits,
            targets,
            vocab,
            norms: &mut norms,
        });
        assert_eq!((loss.count, loss.correct), (exact.count, exact.correct));
        let error = (loss.sum - exact.sum).abs();
        assert!(error <= sum_bound, "{}: {error} > {sum_bound}", isa.name());
        let mut gradient = logits.to_vec();
        isa.run(Backward {
            logits: &mut gradient,
            targets,
            vocab,
            norms: &norms,
            scale: 1.0,
        });
        let error = worst(&gradient, &exact_gradient);
        assert!(
            error <= gradient_bound,
            "{}: {error} > {gradient_bound}",
            isa.name()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn loss_and_gradient_are_as_exact_as_plain_f32(
        seed: u64, rows in 0usize..12, vocab in 1usize..200, range in 0.1f32..40.0, ignore: bool,
        offset in prop::sample::select(vec![0.0_f32, 30.0, -100.0, 1e4, -1e6]),
    ) {
        let (mut logits, targets) = case(seed, rows, vocab, range, ignore);
        logits.iter_mut().for_each(|x| *x += offset);
        hold(&logits, &targets, vocab);
    }
}

#[test]
fn unusual_sizes_are_as_exact_as_plain_f32() {
    for (rows, vocab) in [(5, 1), (5, 3), (1, 50_280), (3, 4097), (300, 256)] {
        let (logits, targets) = case(7, rows, vocab, 8.0, true);
        hold(&logits, &targets, vocab);
    }
    // One whose plain gradient happens to be exact to 3e-9.
    let (logits, targets) = case(13854813942468953078, 1, 24, 25.155825, false);
    hold(&logits, &targets, 24);
}

#[test]
fn extreme_logits_are_as_exact_as_plain_f32() {
    let (logits, targets) = case(8, 9, 77, 1e4, false);
    hold(&logits, &targets, 77);
    let logits = [1e4, -1e4, 0.0, -1e4, -1e4, -1e4, 1e4, 1e4, 1e4];
    hold(&logits, &[1, 0, 2], 3);
}

#[test]
fn gradient_is_the_slope_of_the_reference_loss() {
    let (rows, vocab) = (4, 6);
    let (logits, targets) = case(9, rows, vocab, 3.0, true);
    let scale = 0.3;
    let mut gradient = logits.clone();
    let mut norms = vec![[0.0; 2]; rows];
    cpu::forward(&logits, &targets, vocab, &mut norms);
    cpu::backward(&mut gradient, &targets, vocab, &norms, scale);
    let step = 1e-5;
    for i in 0..logits.len() {
        let loss_at = |shift: f64| {
            let mut x = wide(&logits);
            x[i] += shift;
            reference::forward(&x, &targets, vocab).sum
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step) * f64::from(scale);
        assert!((f64::from(gradient[i]) - slope).abs() < 1e-7, "at {i}");
    }
}

#[test]
fn ignored_rows_have_neither_loss_nor_gradient() {
    let (mut logits, _) = case(10, 3, 5, 2.0, false);
    logits[7] = f32::NAN;
    let targets = [4, IGNORE, 2];
    let mut norms = [[f32::NAN; 2]; 3];
    let loss = cpu::forward(&logits, &targets, 5, &mut norms);
    let kept: Vec<f32> = [&logits[..5], &logits[10..]].concat();
    assert_eq!(loss, cpu::forward(&kept, &[4, 2], 5, &mut [[0.0; 2]; 2]));
    cpu::backward(&mut logits, &targets, 5, &norms, 1.0);
    assert_eq!(&logits[5..10], [0.0; 5]);
    assert!(logits.iter().all(|g| g.is_finite()));
}

#[test]
fn all_rows_ignored_is_a_loss_of_zero_with_count_zero() {
    let loss = cpu::forward(&[1.0, 2.0], &[IGNORE], 2, &mut [[0.0; 2]]);
    assert_eq!(loss, Totals::default());
    assert_eq!(loss.mean(), 0.0);
    assert_eq!(
        Totals {
            sum: 3.0,
            count: 2,
            correct: 0
        }
        .mean(),
        1.5
    );
}

#[test]
fn losses_of_rows_sum_to_the_loss() {
    let (logits, targets) = case(11, 400, 97, 5.0, true);
    let rows = logits.chunks_exact(97).zip(&targets);
    let sum: f64 = rows
        .map(|(row, target)| cpu::forward(row, &[*target], 97, &mut [[0.0; 2]]).sum)
        .sum();
    let loss = cpu::forward(&logits, &targets, 97, &mut vec![[0.0; 2]; 400]);
    assert!((sum - loss.sum).abs() < 1e-6 * loss.sum);
}

#[test]
fn of_equal_logits_the_first_counts_as_the_prediction() {
    let logits = [0.0, 2.0, 2.0];
    for (target, correct) in [(0, 0), (1, 1), (2, 0)] {
        let loss = cpu::forward(&logits, &[target], 3, &mut [[0.0; 2]]);
        assert_eq!(loss.correct, correct, "target {target}");
    }
}

#[test]
fn masked_logits_are_zero_and_broken_ones_are_seen() {
    for isa in Isa::available() {
        let run = |logits: &[f32]| {
            let (mut norms, targets, vocab) = ([[0.0; 2]], &[0], logits.len());
            let sum = isa
                .run(Forward {
                    logits,
                    targets,
                    vocab,
                    norms: &mut norms,
                })
                .sum;
            let mut gradient = logits.to_vec();
            let logits = &mut gradient[..];
            isa.run(Backward {
                logits,
                targets,
                vocab,
                norms: &norms,
                scale: 1.0,
            });
            (sum, gradient)
        };
        let (sum, gradient) = run(&[1.0, f32::NEG_INFINITY, 1.0]);
        assert!((sum - std::f64::consts::LN_2).abs() < 1e-6);
        assert_eq!(gradient[1], 0.0);
        for broken in [f32::NAN, f32::INFINITY] {
            let (sum, gradient) = run(&[1.0, 2.0, 3.0, broken, 1.0]);
            assert!(sum.is_nan(), "{} {broken}", isa.name());
            assert!(
                gradient.iter().any(|g| g.is_nan()),
                "{} {broken}",
                isa.name()
            );
        }
    }
}

#[test]
fn targets_outside_the_vocabulary_are_named() {
    assert_eq!(cpu::check_targets(&[0, 4, IGNORE], 5), Ok(()));
    assert_eq!(cpu::check_targets(&[0, IGNORE, 5, 9], 5), Err(2));
}

#[test]
#[should_panic(expected = "targets")]
fn targets_outside_the_vocabulary_are_refused_before_any_work() {
    cpu::forward(&[0.0; 6], &[1, 3], 3, &mut [[0.0; 2]; 2]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, vocab) = (1003, 257);
    let (logits, targets) = case(12, rows, vocab, 6.0, true);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a small pool").install(|| {
            let (mut norms, mut gradient) = (vec![[0.0; 2]; rows], logits.clone());
            let loss = cpu::forward(&logits, &targets, vocab, &mut norms);
            cpu::backward(&mut gradient, &targets, vocab, &norms, 0.01);
            (loss, norms, gradient)
        })
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}
