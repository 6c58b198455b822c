//! The processor's kernels against the definition, on every instruction set.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::reference::loss_and_gradient;
use crate::cross_entropy::IGNORE;
use crate::cross_entropy::weighted::cpu::{self, Backward, Classes};
use crate::shared::tests::dense::{
    assert_gradient, assert_same_bits_on_any_number_of_threads, largest_of_neighbours,
};
use crate::simd::Isa;

/// Logits in ±`range`, targets of which each fifth is ignored, and weights of which some are 0.
fn case(seed: u64, rows: usize, classes: usize, range: f32) -> (Vec<f32>, Vec<u32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let logits = (0..rows * classes).map(|_| rng.random_range(-range..range));
    let logits = logits.collect();
    let target = |r: usize| match r % 5 {
        1 => IGNORE,
        _ => rng.random_range(0..classes as u32),
    };
    let targets = (0..rows).map(target).collect();
    let weights = (0..classes).map(|_| rng.random_range(-0.5_f32..3.0).max(0.0));
    (logits, targets, weights.collect())
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The largest of the differences.
fn worst(computed: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(computed.len(), exact.len());
    let errors = computed
        .iter()
        .zip(exact)
        .map(|(&c, e)| (f64::from(c) - e).abs());
    errors.fold(0.0, |worst, error| {
        if error > worst || error.is_nan() {
            error
        } else {
            worst
        }
    })
}

/// Holds loss and gradient to twice the largest error of plain f32 among a few neighbours.
fn hold(logits: &[f32], targets: &[u32], weights: &[f32], smoothing: f32) {
    let truth = |logits: &[f32]| {
        loss_and_gradient(&wide(logits), targets, &wide(weights), f64::from(smoothing))
    };
    let (loss, gradient) = truth(logits);
    let plainly = largest_of_neighbours(|factor| {
        let logits: Vec<f32> = logits.iter().map(|x| x * factor as f32).collect();
        let (loss, gradient) = truth(&logits);
        let plain = loss_and_gradient(&logits, targets, weights, smoothing);
        [
            (f64::from(plain.0) - loss).abs(),
            worst(&plain.1, &gradient),
        ]
    });
    let classes = Classes::new(weights, smoothing);
    let mut norms = vec![[f32::NAN; 2]; targets.len()];
    let sums = cpu::forward(logits, targets, classes, &mut norms);
    let epsilon = f64::from(f32::EPSILON);
    let (error, allowed) = (
        (sums.mean() - loss).abs(),
        2.0 * plainly[0] + epsilon * (1.0 + loss.abs()),
    );
    assert!(error <= allowed, "loss: {error} > {allowed}");
    // Of a single class it is a difference that cancels: one rounding is relative to its terms.
    let largest = weights.iter().copied().fold(0.0, f32::max);
    let scale = if sums.weight == 0.0 {
        0.0
    } else {
        1.0 / sums.weight
    };
    let size = f64::from(largest) * scale;
    let allowed = 2.0 * plainly[1] + 2.0 * epsilon * size;
    for isa in Isa::available() {
        let mut got = logits.to_vec();
        isa.run(Backward {
            logits: &mut got,
            targets,
            classes,
            norms: &norms,
            scale: scale as f32,
        });
        let error = worst(&got, &gradient);
        assert!(error <= allowed, "{}: {error} > {allowed}", isa.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn loss_and_gradient_are_as_exact_as_plain_f32(
        seed: u64, rows in 0usize..12, classes in 1usize..70, range in 0.1f32..40.0, weighted: bool,
        smoothing in prop::sample::select(vec![0.0_f32, 0.1, 0.9]),
        offset in prop::sample::select(vec![0.0_f32, -100.0, 1e4]),
    ) {
        let (mut logits, targets, mut weights) = case(seed, rows, classes, range);
        logits.iter_mut().for_each(|x| *x += offset);
        if !weighted {
            weights.fill(1.0);
        }
        hold(&logits, &targets, &weights, smoothing);
    }
}

#[test]
fn many_classes_are_as_exact_as_plain_f32() {
    for (rows, classes) in [(7, 1000), (3, 4097)] {
        let (logits, targets, weights) = case(7, rows, classes, 8.0);
        hold(&logits, &targets, &weights, 0.1);
    }
}

#[test]
fn the_gradient_of_the_definition_is_that_of_finite_differences() {
    let (logits, targets, weights) = case(9, 4, 6, 3.0);
    let (logits, weights) = (wide(&logits), wide(&weights));
    for smoothing in [0.0, 0.2] {
        let loss = |x: &[f64]| loss_and_gradient(x, &targets, &weights, smoothing).0;
        let gradient = loss_and_gradient(&logits, &targets, &weights, smoothing).1;
        assert_gradient(&gradient, &logits, loss);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, columns) = (20_000, 7);
    let (logits, targets, weights) = case(12, rows, columns, 6.0);
    assert_same_bits_on_any_number_of_threads(|| {
        let (mut norms, mut gradient) = (vec![[0.0; 2]; rows], logits.clone());
        let classes = Classes::new(&weights, 0.1);
        let sums = cpu::forward(&logits, &targets, classes, &mut norms);
        cpu::backward(&mut gradient, &targets, classes, &norms, 0.01);
        let parts = |x: f64| [x.to_bits() as u32, (x.to_bits() >> 32) as u32].map(f32::from_bits);
        [&gradient[..], &parts(sums.loss), &parts(sums.weight)].concat()
    });
}
