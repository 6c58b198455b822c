use proptest::prelude::*;

use super::reference;
use crate::long_conv::LongConvDims;
use crate::long_conv::cpu::{backward, forward};

fn noise(seed: u64, len: usize) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// Root of the mean squared error, relative to the root of the mean square.
fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(&a, b)| (f64::from(a) - b).powi(2))
        .sum();
    (error
        / want
            .iter()
            .map(|b| b * b)
            .sum::<f64>()
            .max(f64::MIN_POSITIVE))
    .sqrt()
}

struct Case {
    dims: LongConvDims,
    u: Vec<f32>,
    k: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(batch: usize, length: usize, channels: usize) -> Case {
        let dims = LongConvDims {
            batch,
            length,
            channels,
        };
        let n = length * channels;
        Case {
            dims,
            u: noise(1, batch * n),
            k: noise(2, n),
            dy: noise(3, batch * n),
        }
    }

    fn forward(&self) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.u.len()];
        forward(&self.u, &self.k, &mut y, self.dims);
        y
    }

    fn backward(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut du, mut dk) = (vec![f32::NAN; self.u.len()], vec![f32::NAN; self.k.len()]);
        backward(
            &self.u,
            &self.k,
            &self.dy,
            Some(&mut du),
            Some(&mut dk),
            self.dims,
        );
        (du, dk)
    }

    fn check(&self) {
        let (u, k, dy) = (to_f64(&self.u), to_f64(&self.k), to_f64(&self.dy));
        let want = reference::forward(&u, &k, self.dims);
        let (want_du, want_dk) = reference::backward(&u, &k, &dy, self.dims);
        let plain = relative_error(&reference::forward(&self.u, &self.k, self.dims), &want);
        // A sum of one or two terms may be exact by luck; one rounding is always allowed.
        let allowed = 2.0 * plain.max(f64::from(f32::EPSILON));
        let (du, dk) = self.backward();
        for (name, error) in [
            ("y", relative_error(&self.forward(), &want)),
            ("du", relative_error(&du, &want_du)),
            ("dk", relative_error(&dk, &want_dk)),
        ] {
            assert!(
                error <= allowed,
                "{name} of {:?}: error {error:e}, plain f32 {plain:e}",
                self.dims
            );
        }
    }
}

#[test]
fn agrees_with_the_reference_around_every_boundary() {
    for length in [
        1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 255, 257, 512, 700,
    ] {
        Case::new(2, length, 5).check();
    }
    for channels in [1, 16, 17, 31, 32, 33] {
        Case::new(1, 40, channels).check();
        Case::new(1, 100, channels).check();
    }
    for batch in [3, 4, 5, 9] {
        Case::new(batch, 20, 3).check();
        Case::new(batch, 80, 3).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn agrees_with_the_reference_for_any_shape(batch in 1usize..6, length in 1usize..180, channels in 1usize..40) {
        Case::new(batch, length, channels).check();
    }
}

#[test]
fn reference_gradients_agree_with_finite_differences() {
    let Case { dims, u, k, dy } = Case::new(2, 6, 3);
    let (u, k, dy) = (to_f64(&u), to_f64(&k), to_f64(&dy));
    let loss = |u: &[f64], k: &[f64]| -> f64 {
        reference::forward(u, k, dims)
            .iter()
            .zip(&dy)
            .map(|(y, g)| y * g)
            .sum()
    };
    let (du, dk) = reference::backward(&u, &k, &dy, dims);
    let step = 1e-3; // the loss is bilinear, so a central difference is exact
    for i in 0..u.len() {
        let moved = |by: f64| loss(&[&u[..i], &[u[i] + by], &u[i + 1..]].concat(), &k);
        assert!(((moved(step) - moved(-step)) / (2.0 * step) - du[i]).abs() < 1e-10);
    }
    for i in 0..k.len() {
        let moved = |by: f64| loss(&u, &[&k[..i], &[k[i] + by], &k[i + 1..]].concat());
        assert!(((moved(step) - moved(-step)) / (2.0 * step) - dk[i]).abs() < 1e-10);
    }
}

#[test]
fn either_gradient_alone_equals_the_pair() {
    for length in [20, 90] {
        let case = Case::new(5, length, 33);
        let (du, dk) = case.backward();
        let (mut du_alone, mut dk_alone) = (vec![f32::NAN; du.len()], vec![f32::NAN; dk.len()]);
        backward(
            &case.u,
            &case.k,
            &case.dy,
            Some(&mut du_alone),
            None,
            case.dims,
        );
        backward(
            &case.u,
            &case.k,
            &case.dy,
            None,
            Some(&mut dk_alone),
            case.dims,
        );
        assert_eq!(du, du_alone);
        assert_eq!(dk, dk_alone);
    }
}

#[test]
fn one_thread_and_three_threads_give_the_same_bits() {
    for length in [24, 200] {
        let case = Case::new(6, length, 70);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| (case.forward(), case.backward()))
        };
        assert_eq!(on(1), on(3));
    }
}

#[test]
fn a_result_never_depends_on_later_inputs() {
    let mut case = Case::new(1, 50, 4);
    let before = case.forward();
    case.u[30 * 4..].fill(0.5);
    assert_eq!(before[..30 * 4], case.forward()[..30 * 4]);
}

#[test]
fn empty_shapes_leave_a_zero_kernel_gradient() {
    let mut dk = [f32::NAN; 6];
    backward(
        &[],
        &[0.0; 6],
        &[],
        Some(&mut []),
        Some(&mut dk),
        LongConvDims {
            batch: 0,
            length: 3,
            channels: 2,
        },
    );
    assert_eq!(dk, [0.0; 6]);
}
