use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{BETAS, EPS, adamw, rules};
use crate::optimizer::cpu::{Step, clip_factor, sum_of_squares, update};

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
    for (rule, definition) in rules() {
        for count in [1, 16, 33, 70_001] {
            let mut p = values(count, 1);
            let mut kept = vec![vec![0.0; count]; rule.moments().len()];
            let mut rp = wide(&p);
            let (mut rm, mut rv) = (vec![0.0; count], vec![0.0; count]);
            for t in 1..=10 {
                let g = values(count, 100 + t as u64);
                let step = Step {
                    lr: 1e-2,
                    weight_decay: 0.1,
                    step: t as u64,
                    clip: 0.5,
                };
                let moments = kept.iter_mut().map(Vec::as_mut_slice).collect();
                update(&*rule, &step, &mut p, &g, moments);
                let scaled: Vec<f64> = g.iter().map(|g| f64::from(*g) * 0.5).collect();
                definition.update((1e-2, 0.1, t), &mut rp, &scaled, &mut rm, &mut rv);
            }
            for (got, want) in p.iter().zip(&rp) {
                // Ten roundings of a value of at most about one, and of steps of 1e-2.
                let near = (f64::from(*got) - want).abs() < 2e-6;
                assert!(near, "{}: {got} {want}", rule.name());
            }
        }
    }
}

/// AdamW value by value, each operation rounded once.
#[test]
fn adamw_keeps_its_bits() {
    let mut p = values(70_001, 1);
    let (mut m, mut v, mut want) = (vec![0.0_f32; p.len()], vec![0.0_f32; p.len()], p.clone());
    let (mut wm, mut wv) = (m.clone(), v.clone());
    let (lr, weight_decay, clip) = (1e-2_f32, 0.1_f32, 0.37_f32);
    let [beta1, beta2] = BETAS;
    for t in 1..=5 {
        let g = values(p.len(), 100 + t);
        let step = Step {
            lr,
            weight_decay,
            step: t,
            clip,
        };
        update(&*adamw(), &step, &mut p, &g, vec![&mut m, &mut v]);
        let rest = |beta: f32| 1.0 - f64::from(beta).powf(t as f64);
        let (lr, second) = (
            (f64::from(lr) / rest(beta1)) as f32,
            rest(beta2).sqrt().recip() as f32,
        );
        for i in 0..want.len() {
            let g = g[i] * clip;
            wm[i] = beta1.mul_add(wm[i], (1.0 - beta1) * g);
            wv[i] = beta2.mul_add(wv[i], (1.0 - beta2) * (g * g));
            let root = wv[i].sqrt().mul_add(second, EPS);
            want[i] = want[i] * (1.0 - 1e-2 * weight_decay) - lr * (wm[i] / root);
        }
    }
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&p), bits(&want));
    assert_eq!((bits(&m), bits(&v)), (bits(&wm), bits(&wv)));
}

#[test]
fn lion_stays_where_neither_gradient_nor_moment_points() {
    let [_, _, (lion, _)] = rules();
    let step = Step {
        lr: 0.5,
        weight_decay: 0.0,
        step: 1,
        clip: 1.0,
    };
    let mut p = [1.0, 1.0, 1.0];
    update(
        &*lion,
        &step,
        &mut p,
        &[0.0, -3.0, 1e-30],
        vec![&mut [0.0; 3]],
    );
    assert_eq!(p, [1.0, 1.5, 0.5]);
}

#[test]
#[should_panic(expected = "does not keep 2 moments")]
fn a_rule_that_takes_other_moments_than_it_keeps_is_a_fault_of_the_program() {
    let step = Step {
        lr: 0.5,
        weight_decay: 0.0,
        step: 1,
        clip: 1.0,
    };
    update(&*adamw(), &step, &mut [1.0], &[1.0], vec![&mut [0.0]]);
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
    assert_eq!(clip_factor(f64::NAN, 1.0), 1.0);
}
