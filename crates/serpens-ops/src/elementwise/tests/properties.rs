//! The kernels against the definitions.

use proptest::prelude::*;
use serpens_core::{Device, Error, Mat, MatMut, Tensor, Var, bf16};

use super::reference;
use crate::elementwise::{cpu, dropout};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_close_sums, assert_gradient,
    assert_same_bits_on_any_number_of_threads, dot, uniform,
};

/// The output of a kernel of one input on a matrix with margins.
fn unary(
    x: &[f32],
    (rows, cols, margin): (usize, usize, usize),
    f: impl Fn(Mat, MatMut),
) -> Vec<f32> {
    let mut y = Wide::blank(rows, cols, margin);
    f(Wide::new(x, rows, cols, margin).mat(), y.mat_mut());
    y.dense()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn maps_of_one_matrix_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let (x, exact) = uniform(seed, rows * cols);
        let shape = (rows, cols, margin);
        let check = |kernel: fn(Mat, MatMut), plain: fn(f32) -> f32, truth: fn(f64) -> f64| {
            let plain: Vec<f32> = x.iter().copied().map(plain).collect();
            let truth: Vec<f64> = exact.iter().copied().map(truth).collect();
            assert_close(&unary(&x, shape, kernel), &plain, &truth);
        };
        check(cpu::silu, reference::silu, reference::silu);
        check(cpu::gelu, reference::gelu, reference::gelu);
        check(cpu::exp, f32::exp, f64::exp);
        check(cpu::neg_exp, |x| -x.exp(), |x| -x.exp());
        check(cpu::sigmoid, reference::sigmoid, reference::sigmoid);
        check(cpu::tanh, f32::tanh, f64::tanh);
        check(cpu::abs, f32::abs, f64::abs);
    }

    #[test]
    fn maps_of_two_matrices_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let len = rows * cols;
        let ((a, exact_a), (b, exact_b)) = (uniform(seed, len), uniform(seed ^ 1, len));
        let (wide_a, wide_b) = (Wide::new(&a, rows, cols, margin), Wide::new(&b, rows, cols, 1));
        let check = |kernel: fn(Mat, Mat, MatMut), plain: fn(f32, f32) -> f32, truth: fn(f64, f64) -> f64| {
            let mut y = Wide::blank(rows, cols, margin);
            kernel(wide_a.mat(), wide_b.mat(), y.mat_mut());
            let plain: Vec<f32> = (0..len).map(|i| plain(a[i], b[i])).collect();
            let truth: Vec<f64> = (0..len).map(|i| truth(exact_a[i], exact_b[i])).collect();
            assert_close(&y.dense(), &plain, &truth);
        };
        check(cpu::add, |a, b| a + b, |a, b| a + b);
        check(cpu::sub, |a, b| a - b, |a, b| a - b);
        check(cpu::mul, |a, b| a * b, |a, b| a * b);
        check(cpu::silu_mul, |a, z| a * reference::silu(z), |a, z| a * reference::silu(z));
        check(cpu::silu_backward, |dy, x| dy * reference::silu_slope(x), |dy, x| dy * reference::silu_slope(x));
        check(cpu::gelu_backward, |dy, x| dy * reference::gelu_slope(x), |dy, x| dy * reference::gelu_slope(x));
        check(cpu::sigmoid_backward, |dy, x| dy * reference::sigmoid_slope(x), |dy, x| dy * reference::sigmoid_slope(x));
        check(cpu::abs_backward, |dy, x| dy * reference::abs(x).1, |dy, x| dy * reference::abs(x).1);
        check(cpu::tanh_backward, |dy, x| dy * reference::tanh_slope(x), |dy, x| dy * reference::tanh_slope(x));
    }

    #[test]
    fn gradients_of_products_agree_with_their_definitions(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let len = rows * cols;
        let (dy, exact_dy) = uniform(seed, len);
        let ((a, exact_a), (z, exact_z)) = (uniform(seed ^ 1, len), uniform(seed ^ 2, len));
        let wide = [&dy, &a, &z].map(|m| Wide::new(m, rows, cols, margin));
        let (mut da, mut dz) = (Wide::blank(rows, cols, margin), Wide::blank(rows, cols, 2));

        cpu::silu_mul_backward(wide[0].mat(), wide[1].mat(), wide[2].mat(), da.mat_mut(), dz.mat_mut());
        let plain = reference::silu_mul_backward(&dy, &a, &z);
        let truth = reference::silu_mul_backward(&exact_dy, &exact_a, &exact_z);
        assert_close(&da.dense(), &plain.0, &truth.0);
        assert_close(&dz.dense(), &plain.1, &truth.1);

        // Of logits a, for which z makes targets from 0 to 1.
        let targets: Vec<f32> = z.iter().map(|z| z / 4.0 + 0.5).collect();
        let exact_t: Vec<f64> = exact_z.iter().map(|z| f64::from(*z as f32 / 4.0 + 0.5)).collect();
        let t = Wide::new(&targets, rows, cols, margin);
        cpu::binary_cross_entropy(wide[1].mat(), t.mat(), da.mat_mut());
        cpu::binary_cross_entropy_backward(wide[0].mat(), wide[1].mat(), t.mat(), dz.mat_mut());
        let all = |f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<f64>>();
        let plainly = |f: &dyn Fn(usize) -> f32| (0..len).map(f).collect::<Vec<f32>>();
        let plain = plainly(&|i| reference::binary_cross_entropy(a[i], targets[i]));
        assert_close(&da.dense(), &plain, &all(&|i| reference::binary_cross_entropy(exact_a[i], exact_t[i])));
        let plain = plainly(&|i| dy[i] * (reference::sigmoid(a[i]) - targets[i]));
        assert_close(&dz.dense(), &plain, &all(&|i| exact_dy[i] * (reference::sigmoid(exact_a[i]) - exact_t[i])));

        cpu::mul_backward(wide[0].mat(), wide[1].mat(), wide[2].mat(), da.mat_mut(), dz.mat_mut());
        for i in 0..len {
            prop_assert_eq!((da.dense()[i], dz.dense()[i]), (dy[i] * z[i], dy[i] * a[i]));
        }
    }

    #[test]
    fn sums_over_rows_agree_with_the_definition(rows in 0usize..200, cols in 1usize..40, margin in 0usize..3, seed: u64) {
        let (x, exact) = uniform(seed, rows * cols);
        let mut out = vec![3.0; cols];
        cpu::sum_rows(Wide::new(&x, rows, cols, margin).mat(), &mut out, false);
        let (plain, truth) = (reference::sum_rows(&x, cols), reference::sum_rows(&exact, cols));
        let sizes: Vec<f64> = exact.iter().map(|x| x.abs()).collect();
        let sizes = reference::sum_rows(&sizes, cols);
        assert_close_sums(&out, &plain, &truth, &sizes);
        let mut twice = out.clone();
        cpu::sum_rows(Wide::new(&x, rows, cols, margin).mat(), &mut twice, true);
        let doubled: Vec<f64> = truth.iter().map(|t| 2.0 * t).collect();
        let plain: Vec<f32> = plain.iter().map(|p| 2.0 * p).collect();
        let sizes: Vec<f64> = sizes.iter().map(|s| 2.0 * s).collect();
        assert_close_sums(&twice, &plain, &doubled, &sizes);
    }
}

#[test]
fn conversions_round_to_the_nearest_of_two_the_even_one() {
    let (x, exact) = uniform(4, 60);
    let mut narrow = vec![bf16::ZERO; 60];
    cpu::to_bf16(Wide::new(&x, 5, 12, 2).mat(), &mut narrow);
    let mut back = vec![0.0; 60];
    cpu::to_f32(&narrow, &mut back);
    for (back, exact) in back.iter().zip(&exact) {
        // 8 bits of significand: half a unit of the last is 2^-9 of the power of two below the value.
        let half_unit = 2.0_f64.powi(exact.abs().log2().floor() as i32 - 8);
        assert!((f64::from(*back) - exact).abs() <= half_unit, "{exact}");
    }
    let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
    let mut rounded = [bf16::ZERO; 2];
    cpu::to_bf16(Mat::dense(&ties, 2), &mut rounded);
    assert_eq!(rounded.map(|v| v.to_f64()), [1.0, 1.0 + 4.0 / 256.0]);
}

/// The largest error of a kernel relative to the exact value, over `x`.
fn worst(kernel: impl Fn(Mat, MatMut), exact: impl Fn(f64) -> f64, x: &[f32]) -> f64 {
    let mut y = vec![f32::NAN; x.len()];
    kernel(Mat::dense(x, x.len()), MatMut::dense(&mut y, x.len()));
    let errors = x.iter().zip(&y).map(|(&x, &y)| {
        let exact = exact(f64::from(x));
        ((f64::from(y) - exact) / exact).abs()
    });
    errors.fold(0.0, |worst, error| match error.is_nan() {
        true => error,
        false => f64::max(worst, error),
    })
}

/// Numbers of every exponent from `low` on, of both signs where that is asked for.
fn magnitudes(exponents: std::ops::Range<i32>, signs: &[f32]) -> Vec<f32> {
    let of = |e| (0..61).map(move |i| (1.0 + i as f32 / 61.0) * 2.0_f32.powi(e));
    let all: Vec<f32> = exponents.flat_map(of).collect();
    signs
        .iter()
        .flat_map(|sign| all.iter().map(move |x| sign * x))
        .collect()
}

#[test]
fn functions_are_exact_over_their_whole_range() {
    let small = magnitudes(-100..7, &[1.0, -1.0]);
    assert!(worst(cpu::tanh, f64::tanh, &small) < 4e-7);
    // Away from 1, near which only the absolute error is small.
    let positive: Vec<f32> = magnitudes(-126..128, &[1.0])
        .into_iter()
        .filter(|x| !(0.9..1.1).contains(x))
        .collect();
    assert!(worst(cpu::log, f64::ln, &positive) < 4e-7);
    // Of targets that are certain, which the sign of x agrees with or not.
    let of = |target: f32| {
        move |x: Mat, y: MatMut| {
            let targets = vec![target; x.cols()];
            cpu::binary_cross_entropy(x, Mat::dense(&targets, x.cols()), y);
        }
    };
    let slopes = |target: f32| {
        move |x: Mat, y: MatMut| {
            let (ones, targets) = (vec![1.0; x.cols()], vec![target; x.cols()]);
            let [ones, targets] = [&ones, &targets].map(|values| Mat::dense(values, x.cols()));
            cpu::binary_cross_entropy_backward(ones, x, targets, y);
        }
    };
    let near: Vec<f32> = (-340..=340).map(|i| i as f32 / 4.0).collect();
    let loss = |x| reference::binary_cross_entropy(x, 0.0);
    assert!(worst(of(0.0), loss, &near) < 6e-7);
    assert!(worst(of(1.0), |x| reference::binary_cross_entropy(-x, 0.0), &near) < 6e-7);
    assert!(worst(slopes(0.0), reference::sigmoid, &near) < 6e-7);
    assert!(worst(slopes(1.0), |x| -reference::sigmoid(-x), &near) < 6e-7);
    let slope = |x: f64| reference::sigmoid_slope(x);
    let of_ones = |x: Mat, y: MatMut| {
        let ones = vec![1.0; x.cols()];
        cpu::sigmoid_backward(Mat::dense(&ones, x.cols()), x, y);
    };
    // Where 1 − σ would have lost its digits.
    let x: Vec<f32> = (-340..=340).map(|i| i as f32 / 4.0).collect();
    assert!(worst(of_ones, slope, &x) < 8e-7);
}

#[test]
fn functions_at_the_edges_are_their_limits() {
    const INF: f32 = f32::INFINITY;
    let of = |kernel: fn(Mat, MatMut), x: &[f32]| {
        let mut y = vec![7.0; x.len()];
        kernel(Mat::dense(x, x.len()), MatMut::dense(&mut y, x.len()));
        y
    };
    assert_eq!(of(cpu::log, &[0.0, -0.0, 1.0, INF]), [-INF, -INF, 0.0, INF]);
    let least = f32::from_bits(1);
    let of_least = f64::from(of(cpu::log, &[least])[0]);
    assert!((of_least / f64::from(least).ln() - 1.0).abs() < 4e-7);
    assert_eq!(
        of(cpu::tanh, &[0.0, 100.0, -100.0, INF, -INF]),
        [0.0, 1.0, -1.0, 1.0, -1.0]
    );
    assert_eq!(of(cpu::sigmoid, &[0.0, INF, -INF]), [0.5, 1.0, 0.0]);
    assert_eq!(
        of(cpu::abs, &[-0.0, -INF, -least, 1.0]),
        [0.0, INF, least, 1.0]
    );
    let mut slopes = [f32::NAN; 5];
    let x = [0.0, -0.0, least, -least, -INF];
    cpu::abs_backward(
        Mat::dense(&[3.0; 5], 5),
        Mat::dense(&x, 5),
        MatMut::dense(&mut slopes, 5),
    );
    assert_eq!(slopes, [0.0, 0.0, 3.0, -3.0, -3.0]);
    // The logarithm of the impossible is as long as x.
    let (x, targets) = (
        [1e38, 1e38, -1e38, -1e38, 1e4, INF],
        [0.0, 1.0, 0.0, 1.0, 0.25, 0.0],
    );
    let (mut y, mut dx) = ([f32::NAN; 6], [f32::NAN; 6]);
    let [x, targets, ones] = [x, targets, [1.0; 6]];
    let [x, targets, ones] = [&x, &targets, &ones].map(|values| Mat::dense(values, 6));
    cpu::binary_cross_entropy(x, targets, MatMut::dense(&mut y, 6));
    cpu::binary_cross_entropy_backward(ones, x, targets, MatMut::dense(&mut dx, 6));
    assert_eq!(y, [1e38, 0.0, 0.0, 1e38, 7500.0, INF]);
    assert_eq!(dx, [1.0, 0.0, 0.0, -1.0, 0.75, 1.0]);
    // Far out x itself, or nothing; GPT-2's own value at 1 between.
    let gelu = of(cpu::gelu, &[0.0, 1.0, 20.0, -20.0, 1e38, -1e38, INF]);
    assert_eq!(gelu[..1], [0.0]);
    assert!((gelu[1] - 0.841_192).abs() < 1e-6, "{}", gelu[1]);
    assert_eq!(gelu[2..], [20.0, 0.0, 1e38, 0.0, INF]);
    let mut slopes = [f32::NAN; 4];
    let (x, ones) = ([20.0, -20.0, 1e38, -1e38], [1.0; 4]);
    cpu::gelu_backward(
        Mat::dense(&ones, 4),
        Mat::dense(&x, 4),
        MatMut::dense(&mut slopes, 4),
    );
    assert_eq!(slopes, [1.0, 0.0, 1.0, 0.0]);
    for kernel in [cpu::log, cpu::tanh, cpu::sigmoid, cpu::gelu, cpu::abs] {
        assert!(of(kernel, &[f32::NAN])[0].is_nan());
    }
    let below = of(cpu::log, &[-1.0, -INF, -least]);
    assert!(below.iter().all(|y| y.is_nan()), "{below:?}");
}

#[test]
fn dropout_keeps_the_share_and_the_mean_and_is_a_function_of_the_seed() {
    let ones: Var = Tensor::full([300, 1000], 1.0_f32, Device::cpu())
        .unwrap()
        .into();
    let of = |rate, seed| {
        dropout(&ones, rate, seed)
            .unwrap()
            .into_tensor()
            .unwrap()
            .to_vec::<f32>()
            .unwrap()
    };
    for rate in [0.0, 1e-3, 0.1, 0.5, 0.9] {
        let y = of(rate, Some(3));
        let count = y.len() as f64;
        let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / count;
        let exact = f64::from(rate);
        let deviation = (exact * (1.0 - exact) / count).sqrt();
        assert!(
            (dropped - exact).abs() < 4.0 * deviation + 1e-7,
            "{rate}: {dropped}"
        );
        let kept = y.iter().find(|y| **y != 0.0).unwrap();
        assert!(
            (f64::from(*kept) * (1.0 - exact) - 1.0).abs() < 2e-7,
            "{rate}: {kept}"
        );
    }
    assert_eq!(of(0.5, Some(3)), of(0.5, Some(3)));
    let agree = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
    };
    // Neighbouring seeds, and one mask against itself a row or a value later, have nothing to do with each other.
    let (y, next) = (of(0.5, Some(3)), of(0.5, Some(4)));
    for (a, b) in [
        (&y[..], &next[..]),
        (&y[1..], &y[..y.len() - 1]),
        (&y[1000..], &y[..y.len() - 1000]),
    ] {
        assert!((agree(a, b) - 0.5).abs() < 0.005);
    }
    // As in evaluation.
    assert_eq!(of(0.5, None), vec![1.0; 300_000]);
    for rate in [1.0, -0.1, 1.5, f32::NAN, f32::INFINITY] {
        for seed in [None, Some(1)] {
            let refused = dropout(&ones, rate, seed);
            assert!(matches!(refused, Err(Error::Value { .. })), "{rate}");
        }
    }
}

#[test]
fn slopes_are_those_of_finite_differences() {
    let ((_, a), (_, z), (_, dy)) = (uniform(1, 12), uniform(2, 12), uniform(3, 12));
    let (da, dz) = reference::silu_mul_backward(&dy, &a, &z);
    assert_gradient(&da, &a, |a| dot(&dy, &reference::silu_mul(a, &z)));
    assert_gradient(&dz, &z, |z| dot(&dy, &reference::silu_mul(&a, z)));
    let slopes: Vec<f64> = z.iter().map(|z| reference::silu_slope(*z)).collect();
    assert_gradient(&slopes, &z, |z| z.iter().map(|z| reference::silu(*z)).sum());
    let slopes: Vec<f64> = z.iter().map(|z| reference::gelu_slope(*z)).collect();
    assert_gradient(&slopes, &z, |z| z.iter().map(|z| reference::gelu(*z)).sum());
    let slopes: Vec<f64> = z.iter().map(|z| reference::sigmoid_slope(*z)).collect();
    assert_gradient(&slopes, &z, |z| {
        z.iter().map(|z| reference::sigmoid(*z)).sum()
    });
    let slopes: Vec<f64> = z.iter().map(|z| reference::tanh_slope(*z)).collect();
    assert_gradient(&slopes, &z, |z| z.iter().map(|z| reference::tanh(*z)).sum());
}

#[test]
fn large_matrices_have_the_same_bits_on_any_number_of_threads() {
    let (rows, cols) = (1000, 67);
    let ((a, _), (z, _)) = (uniform(1, rows * cols), uniform(2, rows * cols));
    assert_same_bits_on_any_number_of_threads(|| {
        let mut out = vec![0.0; cols];
        cpu::sum_rows(Mat::dense(&a, cols), &mut out, false);
        for margin in [0, 5] {
            let mut y = Wide::blank(rows, cols, margin);
            let (a, z) = (
                Wide::new(&a, rows, cols, margin),
                Wide::new(&z, rows, cols, margin),
            );
            cpu::silu_mul(a.mat(), z.mat(), y.mat_mut());
            out.extend(y.dense());
        }
        out
    });
}
