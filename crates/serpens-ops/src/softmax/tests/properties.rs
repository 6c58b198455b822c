//! The kernels against the definitions.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Shape, Tensor, Var};

use super::reference;
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};
use crate::softmax::{Form, cpu, log_softmax, softmax};

const FORMS: [Form; 2] = [Form::Softmax, Form::LogSoftmax];

fn forward(form: Form, x: &[f32], (rows, cols, margin): (usize, usize, usize)) -> Vec<f32> {
    let mut y = Wide::blank(rows, cols, margin);
    cpu::forward(form, Wide::new(x, rows, cols, margin).mat(), y.mat_mut());
    y.dense()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_and_gradients_agree_with_their_definitions(
        rows in 1usize..5, cols in 1usize..70, margin in 0usize..3, offset in -300.0f32..300.0, seed: u64,
    ) {
        let x: Vec<f32> = uniform(seed, rows * cols).0.iter().map(|x| 4.0 * x + offset).collect();
        let exact: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let (dy, exact_dy) = uniform(seed ^ 1, rows * cols);
        for form in FORMS {
            let y = forward(form, &x, (rows, cols, margin));
            assert_close(&y, &reference::forward(form, &x, cols), &reference::forward(form, &exact, cols));
            let mut dx = Wide::blank(rows, cols, margin);
            let (y, wide) = (Wide::new(&y, rows, cols, 0), Wide::new(&dy, rows, cols, 1));
            cpu::backward(form, y.mat(), wide.mat(), dx.mat_mut());
            let plain = reference::backward(form, &x, &dy, cols);
            assert_close(&dx.dense(), &plain, &reference::backward(form, &exact, &exact_dy, cols));
        }
    }
}

#[test]
fn the_gradients_of_the_definitions_are_those_of_finite_differences() {
    let ((_, x), (_, dy)) = (uniform(1, 12), uniform(2, 12));
    for form in FORMS {
        let gradient = reference::backward(form, &x, &dy, 4);
        assert_gradient(&gradient, &x, |x| dot(&dy, &reference::forward(form, x, 4)));
    }
}

#[test]
fn rows_of_any_length_have_the_same_bits_on_any_number_of_threads_and_sum_to_one() {
    for (rows, cols) in [(1, 100_003), (1000, 67), (3, 40_001)] {
        let x = uniform(1, rows * cols).0;
        assert_same_bits_on_any_number_of_threads(|| {
            let y = forward(Form::Softmax, &x, (rows, cols, 1));
            for row in y.chunks(cols) {
                let sum: f64 = row.iter().map(|p| f64::from(*p)).sum();
                assert!((sum - 1.0).abs() < 1e-6, "{sum}");
            }
            let mut all = forward(Form::LogSoftmax, &x, (rows, cols, 0));
            all.extend(y);
            all
        });
    }
}

#[test]
fn values_at_the_edges_are_what_they_mean() {
    const INF: f32 = f32::INFINITY;
    let row = |form, x: &[f32]| forward(form, x, (1, x.len(), 0));
    // A shift changes nothing, however large.
    let halves = [0.5, 0.5, 0.0];
    assert_eq!(row(Form::Softmax, &[1e30, 1e30, -1e30]), halves);
    let logarithms = [-std::f32::consts::LN_2; 2];
    assert_eq!(row(Form::LogSoftmax, &[1e30, 1e30]), logarithms);
    // What is masked has no share; its logarithm says so.
    assert_eq!(row(Form::Softmax, &[0.0, 0.0, -INF]), halves);
    assert_eq!(row(Form::LogSoftmax, &[0.0, -INF]), [0.0, -INF]);
    // Too small for a number, but not for a logarithm.
    assert_eq!(row(Form::Softmax, &[0.0, -200.0]), [1.0, 0.0]);
    assert_eq!(row(Form::LogSoftmax, &[0.0, -200.0]), [0.0, -200.0]);
    for form in FORMS {
        for bad in [[-INF, -INF], [f32::NAN, 0.0], [0.0, INF]] {
            let y = row(form, &bad);
            assert!(y.iter().all(|y| y.is_nan()), "{form:?} of {bad:?}: {y:?}");
        }
    }
}

#[test]
fn tensors_without_axes_and_integers_are_refused() {
    let scalar: Var = Tensor::full(Shape::new(&[]), 1.0_f32, Device::cpu())
        .unwrap()
        .into();
    assert!(matches!(softmax(&scalar), Err(Error::Shape { .. })));
    let ids: Var = Tensor::zeros([3], DType::U32, Device::cpu())
        .unwrap()
        .into();
    assert!(matches!(log_softmax(&ids), Err(Error::DType { .. })));
    let none: Var = Tensor::zeros([3, 0], DType::F32, Device::cpu())
        .unwrap()
        .into();
    assert!(softmax(&none).unwrap().tensor().unwrap().is_empty());
}
