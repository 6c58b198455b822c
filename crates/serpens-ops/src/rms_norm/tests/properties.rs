//! The kernels against the definition.

use proptest::prelude::*;
use serpens_core::{Mat, MatMut};

use super::reference;
use crate::rms_norm::cpu;
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};

const EPS: f32 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_agree_with_the_definition(
        rows in 0usize..9, cols in 1usize..140, margin in 0usize..3, with_residual: bool, with_h: bool, seed: u64,
    ) {
        let ((x, exact_x), (residual, exact_residual)) = (uniform(seed, rows * cols), uniform(seed ^ 1, rows * cols));
        let (w, exact_w) = uniform(seed ^ 2, cols);
        let (wide_x, wide_residual) = (Wide::new(&x, rows, cols, margin), Wide::new(&residual, rows, cols, 1));
        let (mut h, mut y) = (Wide::blank(rows, cols, 2), Wide::blank(rows, cols, margin));
        let mut rstd = vec![f32::NAN; rows];
        let h_out = with_h.then(|| h.mat_mut());
        let residual_in = with_residual.then(|| wide_residual.mat());
        cpu::forward(wide_x.mat(), residual_in, &w, EPS, h_out, y.mat_mut(), &mut rstd);

        let plain = reference::forward(&x, with_residual.then_some(&residual[..]), &w, EPS);
        let truth = reference::forward(&exact_x, with_residual.then_some(&exact_residual[..]), &exact_w, f64::from(EPS));
        if with_h {
            assert_close(&h.dense(), &plain.0, &truth.0);
        }
        assert_close(&y.dense(), &plain.1, &truth.1);
        assert_close(&rstd, &plain.2, &truth.2);
    }

    #[test]
    fn gradients_agree_with_the_definition(
        rows in 0usize..90, cols in 1usize..140, margin in 0usize..3, with_extra: bool, seed: u64,
    ) {
        let len = rows * cols;
        // Away from zero: a row of one small value divides by it, and the two terms of its gradient then cancel.
        let h: Vec<f32> = uniform(seed, len).0.iter().map(|v| v + v.signum() * 0.5).collect();
        let exact_h: Vec<f64> = h.iter().map(|h| f64::from(*h)).collect();
        let ((dy, exact_dy), (extra, exact_extra)) = (uniform(seed ^ 1, len), uniform(seed ^ 2, len));
        let (w, exact_w) = uniform(seed ^ 3, cols);
        let exact_r = reference::forward(&exact_h, None, &exact_w, f64::from(EPS)).2;
        let r: Vec<f32> = exact_r.iter().map(|r| *r as f32).collect();
        let [wide_h, wide_dy, wide_extra] = [&h, &dy, &extra].map(|m| Wide::new(m, rows, cols, margin));
        let (mut dx, mut dw) = (Wide::blank(rows, cols, margin), vec![7.0; cols]);
        let saved = cpu::Saved { h: wide_h.mat(), w: &w, rstd: &r };
        let extra_in = with_extra.then(|| wide_extra.mat());
        cpu::backward(wide_dy.mat(), extra_in, saved, dx.mat_mut(), &mut dw, false);

        let plain = reference::backward(&dy, with_extra.then_some(&extra[..]), &h, &w, &r);
        let truth = reference::backward(&exact_dy, with_extra.then_some(&exact_extra[..]), &exact_h, &exact_w, &exact_r);
        assert_close(&dx.dense(), &plain.0, &truth.0);
        assert_close(&dw, &plain.1, &truth.1);

        let mut added = vec![1.0; cols];
        cpu::backward(wide_dy.mat(), extra_in, saved, dx.mat_mut(), &mut added, true);
        for (added, sum) in added.iter().zip(&dw) {
            prop_assert!((added - 1.0 - sum).abs() < 1e-5 * (1.0 + sum.abs()));
        }
    }
}

#[test]
fn rows_of_any_size_are_exact() {
    let cols = 100;
    let ((w, exact_w), (dy, exact_dy)) = (uniform(2, cols), uniform(3, cols));
    let near = |what: &str, size: f32, got: &[f32], truth: &[f64]| {
        let largest = truth.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
        for (got, truth) in got.iter().zip(truth) {
            let error = (f64::from(*got) - truth).abs();
            assert!(
                error <= 4e-7 * largest,
                "{what} at {size:e}: {got:e}, {truth:e}"
            );
        }
    };
    for (size, eps) in [
        (1e-37, 0.0),
        (1e-20, 0.0),
        (1e-20, EPS),
        (1e9, EPS),
        (2e19, EPS),
        (1.7e38, EPS),
    ] {
        let h: Vec<f32> = uniform(1, cols).0.iter().map(|h| h * size).collect();
        let exact_h: Vec<f64> = h.iter().map(|h| f64::from(*h)).collect();
        let truth = reference::forward(&exact_h, None, &exact_w, f64::from(eps));
        let (mut y, mut rstd) = (vec![f32::NAN; cols], [f32::NAN]);
        let mat = Mat::dense(&h, cols);
        cpu::forward(
            mat,
            None,
            &w,
            eps,
            None,
            MatMut::dense(&mut y, cols),
            &mut rstd,
        );
        near("y", size, &y, &truth.1);
        near("rstd", size, &rstd, &truth.2);
        let (mut dx, mut dw) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
        let saved = cpu::Saved {
            h: mat,
            w: &w,
            rstd: &rstd,
        };
        let dy = Mat::dense(&dy, cols);
        cpu::backward(
            dy,
            None,
            saved,
            MatMut::dense(&mut dx, cols),
            &mut dw,
            false,
        );
        let truth = reference::backward(&exact_dy, None, &exact_h, &exact_w, &truth.2);
        near("dx", size, &dx, &truth.0);
        near("dw", size, &dw, &truth.1);
    }
}

#[test]
fn the_gradients_of_the_definition_are_those_of_finite_differences() {
    let ((_, h), (_, w)) = (uniform(1, 21), uniform(2, 7));
    let ((_, dy), (_, extra)) = (uniform(3, 21), uniform(4, 21));
    let eps = f64::from(EPS);
    let r = reference::forward(&h, None, &w, eps).2;
    let (dh, dw) = reference::backward(&dy, Some(&extra), &h, &w, &r);
    let loss = |h: &[f64], w: &[f64]| {
        let (h, y, _) = reference::forward(h, None, w, eps);
        dot(&dy, &y) + dot(&extra, &h)
    };
    assert_gradient(&dh, &h, |h| loss(h, &w));
    assert_gradient(&dw, &w, |w| loss(&h, w));
}

#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let (rows, cols) = (500, 100);
    let [x, dy] = [1, 2].map(|seed| Wide::new(&uniform(seed, rows * cols).0, rows, cols, 1));
    let w = uniform(3, cols).0;
    assert_same_bits_on_any_number_of_threads(|| {
        let (mut y, mut dx) = (Wide::blank(rows, cols, 0), Wide::blank(rows, cols, 0));
        let (mut rstd, mut dw) = (vec![0.0; rows], vec![0.0; cols]);
        cpu::forward(x.mat(), None, &w, EPS, None, y.mat_mut(), &mut rstd);
        let saved = cpu::Saved {
            h: x.mat(),
            w: &w,
            rstd: &rstd,
        };
        cpu::backward(dy.mat(), None, saved, dx.mat_mut(), &mut dw, false);
        [y.dense(), dx.dense(), dw, rstd].concat()
    });
}
