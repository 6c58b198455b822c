//! The products against the definition.

use proptest::prelude::*;
use serpens_core::{Mat, MatMut};

use super::reference;
use crate::elementwise::tests::reference::sum_rows;
use crate::linear::cpu;
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};
use crate::shared::tests::real::{Real, one};

/// Adds one to every value: what a kernel that accumulates makes of a gradient of ones.
fn plus_one<R: Real>(values: Vec<R>) -> Vec<R> {
    values.into_iter().map(|v| v + one()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_agree_with_the_definition(
        rows in prop_oneof![0usize..20, 125usize..135], d_in in 1usize..70, d_out in 1usize..70, margin in 0usize..3, accumulate: bool, seed: u64,
    ) {
        let ((x, exact_x), (w, exact_w)) = (uniform(seed, rows * d_in), uniform(seed ^ 1, d_out * d_in));
        let ((b, exact_b), (dy, exact_dy)) = (uniform(seed ^ 2, d_out), uniform(seed ^ 3, rows * d_out));
        let (wide_x, wide_dy) = (Wide::new(&x, rows, d_in, margin), Wide::new(&dy, rows, d_out, margin));

        let mut y = Wide::blank(rows, d_out, margin);
        let bias = accumulate.then_some(&b[..]);
        cpu::forward(wide_x.mat(), &w, bias, y.mat_mut());
        let plain = reference::forward(&x, &w, bias, d_in, d_out, rows);
        let bias = accumulate.then_some(&exact_b[..]);
        assert_close(&y.dense(), &plain, &reference::forward(&exact_x, &exact_w, bias, d_in, d_out, rows));

        let before = if accumulate { 1.0 } else { f32::NAN };
        let mut dx = Wide::new(&vec![before; rows * d_in], rows, d_in, margin);
        cpu::backward_input(wide_dy.mat(), &w, dx.mat_mut(), accumulate);
        let mut plain = reference::backward_input(&dy, &w, d_in, d_out, rows);
        let mut truth = reference::backward_input(&exact_dy, &exact_w, d_in, d_out, rows);
        if accumulate {
            (plain, truth) = (plus_one(plain), plus_one(truth));
        }
        assert_close(&dx.dense(), &plain, &truth);

        let mut dw = vec![before; d_out * d_in];
        cpu::backward_weight(wide_dy.mat(), wide_x.mat(), &mut dw, accumulate);
        let mut plain = reference::backward_weight(&dy, &x, d_in, d_out, rows);
        let mut truth = reference::backward_weight(&exact_dy, &exact_x, d_in, d_out, rows);
        if accumulate {
            (plain, truth) = (plus_one(plain), plus_one(truth));
        }
        assert_close(&dw, &plain, &truth);
    }
}

#[test]
fn the_gradients_of_the_definition_are_those_of_finite_differences() {
    let (rows, d_in, d_out) = (3, 4, 5);
    let ((_, x), (_, w)) = (uniform(1, rows * d_in), uniform(2, d_out * d_in));
    let ((_, b), (_, dy)) = (uniform(3, d_out), uniform(4, rows * d_out));
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        dot(&dy, &reference::forward(x, w, Some(b), d_in, d_out, rows))
    };
    let dx = reference::backward_input(&dy, &w, d_in, d_out, rows);
    assert_gradient(&dx, &x, |x| loss(x, &w, &b));
    let dw = reference::backward_weight(&dy, &x, d_in, d_out, rows);
    assert_gradient(&dw, &w, |w| loss(&x, w, &b));
    let db = sum_rows(&dy, d_out);
    assert_gradient(&db, &b, |b| loss(&x, &w, b));
}

#[test]
fn a_sum_over_nothing_is_the_bias_and_adds_no_gradient() {
    for rows in [1, 7] {
        let (x, dy) = (
            Wide::blank(rows, 0, 1),
            Wide::new(&vec![1.0; rows * 3], rows, 3, 0),
        );
        let (mut y, mut dx) = (Wide::blank(rows, 3, 0), Wide::blank(rows, 0, 1));
        cpu::forward(x.mat(), &[], Some(&[1.0, 2.0, 3.0]), y.mat_mut());
        assert_eq!(y.dense(), [1.0, 2.0, 3.0].repeat(rows));
        cpu::forward(x.mat(), &[], None, y.mat_mut());
        assert_eq!(y.dense(), vec![0.0; rows * 3]);
        cpu::backward_input(dy.mat(), &[], dx.mat_mut(), true);
        cpu::backward_weight(dy.mat(), x.mat(), &mut [], true);
    }
    let (nothing, mut dw) = (Wide::blank(0, 3, 0), vec![2.0; 9]);
    cpu::backward_weight(nothing.mat(), nothing.mat(), &mut dw, true);
    assert_eq!(dw, vec![2.0; 9]);
    cpu::backward_weight(nothing.mat(), nothing.mat(), &mut dw, false);
    assert_eq!(dw, vec![0.0; 9]);
}

#[test]
fn large_products_have_the_same_bits_on_any_number_of_threads() {
    for rows in [1, 3, 300] {
        let (d_in, d_out) = (130, 200);
        let (x, w) = (
            Wide::new(&uniform(1, rows * d_in).0, rows, d_in, 1),
            uniform(2, d_in * d_out).0,
        );
        let dy = Wide::new(&uniform(3, rows * d_out).0, rows, d_out, 0);
        assert_same_bits_on_any_number_of_threads(|| {
            let (mut y, mut dx) = (Wide::blank(rows, d_out, 0), Wide::blank(rows, d_in, 0));
            let (mut dw, mut db) = (vec![0.0; d_in * d_out], vec![0.0; d_out]);
            cpu::forward(x.mat(), &w, Some(&w[..d_out]), y.mat_mut());
            cpu::backward_input(dy.mat(), &w, dx.mat_mut(), false);
            cpu::backward_weight(dy.mat(), x.mat(), &mut dw, false);
            crate::elementwise::cpu::sum_rows(dy.mat(), &mut db, false);
            [y.dense(), dx.dense(), dw, db].concat()
        });
    }
}

/// What packs sequences relies on: their rows come out as they would without the others.
#[test]
fn a_row_has_the_same_bits_among_few_others_and_among_many() {
    let most = 3 * cpu::FEW_ROWS;
    for (d_in, d_out) in [(5, 3), (192, 96), (1536, 80), (700, 1537)] {
        let ((x, _), (w, _)) = (uniform(1, most * d_in), uniform(2, d_out * d_in));
        let rows = |from: usize, count: usize| {
            let mut y = vec![0.0; count * d_out];
            let x = Mat::dense(&x[from * d_in..(from + count) * d_in], d_in);
            cpu::forward(x, &w, None, MatMut::dense(&mut y, d_out));
            y
        };
        let (few, many) = (rows(0, cpu::FEW_ROWS), rows(0, most));
        for (whole, from, count) in [
            (&few, 0, 1),
            (&few, 3, 1),
            (&few, 17, 90),
            (&many, 0, cpu::FEW_ROWS + 1),
            (&many, 1, cpu::FEW_ROWS + 2),
            (&many, cpu::FEW_ROWS - 1, 2 * cpu::FEW_ROWS + 1),
        ] {
            let expected = &whole[from * d_out..(from + count) * d_out];
            assert!(
                rows(from, count) == expected,
                "{count} rows from {from}, {d_in} to {d_out}"
            );
        }
    }
}
