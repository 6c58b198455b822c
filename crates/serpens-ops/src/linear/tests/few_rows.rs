//! Products of few rows in every instruction set, each of which spreads rows and outputs over its registers by itself.

use serpens_core::{Mat, bf16};

use super::reference;
use super::step::narrow;
use crate::linear::cpu::few_rows::few_rows;
use crate::shared::tests::dense::{Wide, assert_close, uniform};
use crate::simd::{Isa, Stored};

/// x Wᵀ + b, of rows that lie apart.
fn product<T: Stored>(isa: Isa, x: &[f32], w: Mat<T>, b: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (w.cols(), w.rows());
    let rows = x.len() / inputs;
    let (x, mut y) = (Wide::new(x, rows, inputs, 1), Wide::blank(rows, outputs, 2));
    few_rows(isa, x.mat(), w, Some(b), y.mat_mut(), false);
    y.dense()
}

#[test]
fn every_instruction_set_has_the_product_and_each_row_the_bits_that_it_has_alone() {
    for isa in Isa::available() {
        // Groups of one, two, three, four and eight rows; whole and partial vectors; tasks with and without one behind.
        for (rows, inputs, outputs) in [
            (1, 70, 33),
            (2, 16, 16),
            (3, 5, 3),
            (4, 48, 21),
            (8, 200, 40),
            (11, 33, 17),
            (23, 8, 50),
        ] {
            let what = format!("{isa:?}, {rows} rows, {inputs} to {outputs}");
            let (w, wide) = narrow(1, [outputs, inputs]);
            let ((x, exact_x), (b, exact_b)) = (uniform(2, rows * inputs), uniform(3, outputs));
            let y = product(isa, &x, Mat::dense(&wide, inputs), &b);
            let w = w.view();
            let of_bf16 = product(isa, &x, w.mat_of::<bf16>().unwrap(), &b);
            assert_eq!(y, of_bf16, "{what}");
            let plain = reference::forward(&x, &wide, Some(&b), inputs, outputs, rows);
            let exact_w: Vec<f64> = wide.iter().map(|v| f64::from(*v)).collect();
            let truth =
                reference::forward(&exact_x, &exact_w, Some(&exact_b), inputs, outputs, rows);
            assert_close(&y, &plain, &truth);
            for (x, y) in x.chunks(inputs).zip(y.chunks(outputs)) {
                let alone = product(isa, x, Mat::dense(&wide, inputs), &b);
                assert_eq!(alone, y, "{what}");
            }
        }
    }
}
