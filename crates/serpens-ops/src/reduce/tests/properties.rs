//! The kernels against the definitions.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Shape, Tensor, Var};

use super::reference;
use crate::reduce::{cpu, mean, mean_last, mean_squared_error, sum, sum_last};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_close_sums, assert_gradient,
    assert_same_bits_on_any_number_of_threads, uniform,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sums_agree_with_their_definitions(rows in 0usize..40, cols in 0usize..70, margin in 0usize..3, seed: u64) {
        let (x, exact) = uniform(seed, rows * cols);
        let wide = Wide::new(&x, rows, cols, margin);
        let sizes: Vec<f64> = exact.iter().map(|x| x.abs()).collect();
        let mut total = [f32::NAN];
        cpu::sum(wide.mat(), 1.0, &mut total);
        assert_close_sums(&total, &[reference::sum(&x)], &[reference::sum(&exact)], &[reference::sum(&sizes)]);
        if rows != 1 && cols > 0 {
            let mut sums = vec![f32::NAN; rows];
            cpu::sum(wide.mat(), 0.5, &mut sums);
            let halves = |x: &[f64]| reference::sum_last(x, cols).iter().map(|x| 0.5 * x).collect::<Vec<_>>();
            let plain: Vec<f32> = reference::sum_last(&x, cols).iter().map(|x| 0.5 * x).collect();
            assert_close_sums(&sums, &plain, &halves(&exact), &halves(&sizes));
        }
    }

    #[test]
    fn squared_errors_agree_with_their_definition(rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, seed: u64) {
        let ((a, exact_a), (b, exact_b)) = (uniform(seed, rows * cols), uniform(seed ^ 1, rows * cols));
        let (wide_a, wide_b) = (Wide::new(&a, rows, cols, margin), Wide::new(&b, rows, cols, 1));
        let count = (rows * cols) as f32;
        let error = cpu::squared_error(wide_a.mat(), wide_b.mat(), 1.0 / count);
        let plain = reference::mean_squared_error(&a, &b);
        assert_close(&[error], &[plain], &[reference::mean_squared_error(&exact_a, &exact_b)]);

        let (mut da, mut db) = (Wide::blank(rows, cols, margin), Wide::blank(rows, cols, 2));
        cpu::squared_error_backward(wide_a.mat(), wide_b.mat(), 3.0 / count, da.mat_mut(), db.mat_mut());
        let plain = reference::mean_squared_error_backward(1.5, &a, &b);
        let truth = reference::mean_squared_error_backward(1.5, &exact_a, &exact_b);
        assert_close(&da.dense(), &plain, &truth);
        let negative: Vec<f32> = da.dense().iter().map(|x| -x).collect();
        prop_assert_eq!(db.dense(), negative);
    }

    #[test]
    fn gradients_of_sums_are_spread(rows in 0usize..5, cols in 0usize..70, margin in 0usize..3) {
        let mut dx = Wide::blank(rows, cols, margin);
        cpu::spread(&[3.0], 0.5, dx.mat_mut());
        prop_assert_eq!(dx.dense(), vec![1.5; rows * cols]);
        let dy: Vec<f32> = (0..rows).map(|r| r as f32).collect();
        if rows > 0 {
            cpu::spread(&dy, 2.0, dx.mat_mut());
            let rows: Vec<f32> = dy.iter().flat_map(|dy| vec![2.0 * dy; cols]).collect();
            prop_assert_eq!(dx.dense(), rows);
        }
    }
}

#[test]
fn the_gradient_of_the_definition_is_that_of_finite_differences() {
    let ((_, a), (_, b)) = (uniform(1, 12), uniform(2, 12));
    let gradient = reference::mean_squared_error_backward(0.7, &a, &b);
    assert_gradient(&gradient, &a, |a| {
        0.7 * reference::mean_squared_error(a, &b)
    });
}

#[test]
fn long_sums_lose_little_and_have_the_same_bits_on_any_number_of_threads() {
    for (rows, cols) in [(1, 1_000_003), (1_000_003, 1), (1000, 1067), (3, 40_001)] {
        // Values of one sign: a plain sum in f32 is off by a thousandth part of a per cent and more.
        let x: Vec<f32> = uniform(1, rows * cols).0.iter().map(|x| 3.0 + x).collect();
        let truth: f64 = x.iter().map(|x| f64::from(*x)).sum();
        for margin in [0, 1] {
            let wide = Wide::new(&x, rows, cols, margin);
            assert_same_bits_on_any_number_of_threads(|| {
                let (mut total, mut sums) = ([0.0], vec![0.0; rows]);
                cpu::sum(wide.mat(), 1.0, &mut total);
                assert!(
                    (f64::from(total[0]) / truth - 1.0).abs() < 2e-7,
                    "{total:?} {truth}"
                );
                cpu::sum(wide.mat(), 1.0, &mut sums);
                sums.push(total[0]);
                sums.push(cpu::squared_error(wide.mat(), wide.mat(), 1.0));
                sums
            });
        }
    }
}

#[test]
fn shapes_are_those_without_the_last_axis_and_what_does_not_fit_is_refused() {
    let x: Var = Tensor::full([2, 3, 4], 2.0_f32, Device::cpu())
        .unwrap()
        .into();
    let values = |y: Var| {
        (
            y.shape().to_vec(),
            y.into_tensor().unwrap().to_vec::<f32>().unwrap(),
        )
    };
    assert_eq!(values(sum(&x).unwrap()), (vec![1], vec![48.0]));
    assert_eq!(values(mean(&x).unwrap()), (vec![1], vec![2.0]));
    assert_eq!(values(sum_last(&x).unwrap()), (vec![2, 3], vec![8.0; 6]));
    assert_eq!(values(mean_last(&x).unwrap()), (vec![2, 3], vec![2.0; 6]));
    let row = x.reshape([24]).unwrap();
    assert_eq!(values(sum_last(&row).unwrap()), (vec![], vec![48.0]));
    let none: Var = Tensor::zeros([3, 0], DType::F32, Device::cpu())
        .unwrap()
        .into();
    assert_eq!(values(mean(&none).unwrap()), (vec![1], vec![0.0]));
    assert_eq!(values(mean_last(&none).unwrap()), (vec![3], vec![0.0; 3]));
    let scalar: Var = Tensor::full(Shape::new(&[]), 2.0_f32, Device::cpu())
        .unwrap()
        .into();
    assert_eq!(values(sum(&scalar).unwrap()), (vec![1], vec![2.0]));
    assert!(matches!(sum_last(&scalar), Err(Error::Shape { .. })));
    assert!(matches!(
        mean_squared_error(&x, &row),
        Err(Error::Shape { .. })
    ));
    let ids: Var = Tensor::zeros([3], DType::U32, Device::cpu())
        .unwrap()
        .into();
    assert!(matches!(sum(&ids), Err(Error::DType { .. })));
    assert!(matches!(
        mean_squared_error(&ids, &ids),
        Err(Error::DType { .. })
    ));
}
