use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::reference;
use crate::adamw::cpu::{Step, clip_factor, sum_of_squares, update};

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| rng.next_u32() as f32 / 2.0_f32.powi(31) - 1.0)
        .collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn ten_steps_follow_the_definition() {
    for count in [1, 16, 33, 70_001] {
        let mut p = values(count, 1);
        let (mut m, mut v) = (vec![0.0; count], vec![0.0; count]);
        let (mut rp, mut rm, mut rv) = (wide(&p), wide(&m), wide(&v));
        for t in 1..=10 {
            let g = values(count, 100 + t as u64);
            let step = Step {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                step: t as u64,
                clip: 0.5,
            };
            update(&step, &mut p, &g, &mut m, &mut v);
            let scaled: Vec<f64> = g.iter().map(|g| f64::from(*g) * 0.5).collect();
            let settings = (1e-2, 0.9, 0.95, 1e-8, 0.1, t);
            reference::update(settings, &mut rp, &scaled, &mut rm, &mut rv);
        }
        for (got, want) in p.iter().zip(&rp) {
            // Ten roundings of a value of at most about one, and of steps of 1e-2.
            assert!((f64::from(*got) - want).abs() < 2e-6, "{got} {want}");
        }
    }
}

#[test]
fn sums_of_squares_are_exact_to_single_precision_whatever_the_threads() {
    let g = values(200_003, 5);
    let exact: f64 = g.iter().map(|g| f64::from(*g) * f64::from(*g)).sum();
    let sum = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| sum_of_squares(&g))
    };
    assert!((sum(1) - exact).abs() < 1e-6 * exact);
    assert_eq!(sum(1).to_bits(), sum(3).to_bits());
    assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
    assert_eq!(sum_of_squares(&[1.0, f32::INFINITY]), f64::INFINITY);
    for size in [1e-44, 1e-25, 2e19, f32::MAX] {
        let g: Vec<f32> = g.iter().map(|g| g * size).collect();
        let exact: f64 = wide(&g).iter().map(|g| g * g).sum();
        let sum = sum_of_squares(&g);
        assert!((sum - exact).abs() <= 1e-6 * exact, "{size}: {sum}");
    }
}

#[test]
fn clipping_scales_to_the_norm_and_never_up() {
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    assert!(clip_factor(f64::NAN, 1.0).is_nan() || clip_factor(f64::NAN, 1.0) == 1.0);
}
