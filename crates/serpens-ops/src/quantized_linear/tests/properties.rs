//! The products against the definitions, and against each other on every instruction set.

use proptest::prelude::*;
use serpens_core::{Mat, MatMut};

use super::{halves, packed, random_blocks, reference, set_half};
use crate::linear::tests::reference::forward;
use crate::quantized_linear::cpu::lanes::Set;
use crate::quantized_linear::cpu::{self, on};
use crate::quantized_linear::{Blocks, Packed};
use crate::shared::tests::dense::{
    Wide, assert_close_sums, assert_same_bits_on_any_number_of_threads, distance, uniform,
};

/// y for dense rows of x.
fn product(x: &[f32], w: &Packed, rows: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * w.rows()];
    let x = Mat::new(x, rows, w.cols(), w.cols(), 0);
    cpu::forward(x, w, None, MatMut::new(&mut y, rows, w.rows(), w.rows(), 0));
    y
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    a.len() == b.len() && a.iter().zip(b).all(same)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_agree_with_the_definition_on_every_instruction_set(
        kind in prop::sample::select(&Blocks::ALL[..]), rows in 0usize..19, blocks in 0usize..4, d_out in 0usize..50,
        margin in 0usize..3, accumulate: bool, with_bias: bool, seed: u64,
    ) {
        let d_in = blocks * kind.values();
        let bytes = random_blocks(kind, [d_out, d_in], seed);
        let w = packed(kind, [d_out, d_in], &bytes);
        let ((x, _), (b, exact_b)) = (uniform(seed, rows * d_in), uniform(seed ^ 1, d_out));
        let (wide, b) = (Wide::new(&x, rows, d_in, margin), with_bias.then_some(&b[..]));
        let start = if accumulate { 1.0 } else { f32::NAN };
        let outputs = Set::available().into_iter().map(|set| {
            let mut y = Wide::new(&vec![start; rows * d_out], rows, d_out, margin);
            on(set, wide.mat(), &w, b, y.mat_mut(), accumulate);
            (set, y.dense())
        });
        let outputs: Vec<_> = outputs.collect();
        for (set, y) in &outputs {
            prop_assert!(same_bits(y, &outputs[0].1), "{:?} is not {:?}", set, outputs[0].0);
        }

        // What is left is the rounding of sums in f32.
        let (values, x) = (reference::values(kind, &bytes), reference::rounded(&x));
        let exact_b = with_bias.then_some(&exact_b[..]);
        let f32s = |values: &[f64]| -> Vec<f32> { values.iter().map(|v| *v as f32).collect() };
        let mut plain = forward(&f32s(&x), &f32s(&values), b, d_in, d_out, rows);
        let mut exact = forward(&x, &values, exact_b, d_in, d_out, rows);
        let magnitudes = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v.abs()).collect() };
        let magnitudes = forward(&magnitudes(&x), &magnitudes(&values), None, d_in, d_out, rows);
        if accumulate {
            plain.iter_mut().for_each(|y| *y += 1.0);
            exact.iter_mut().for_each(|y| *y += 1.0);
        }
        assert_close_sums(&outputs[0].1, &plain, &exact, &magnitudes);
    }

    /// Against weights of which the blocks are the nearest.
    #[test]
    fn the_error_is_at_most_twice_that_of_the_format(
        kind in prop::sample::select(&Blocks::ALL[..]), blocks in 1usize..5, seed: u64,
    ) {
        let (rows, d_in, d_out) = (24, blocks * kind.values(), 32);
        let bytes = random_blocks(kind, [d_out, d_in], seed);
        let (values, steps) = (reference::values(kind, &bytes), reference::steps(kind, &bytes));
        let (x, exact_x) = uniform(seed, rows * d_in);
        let noise = uniform(seed ^ 1, d_out * d_in).1;
        let original = values.iter().zip(steps).zip(noise).map(|((v, step), n)| v + step * n / 4.0);
        let truth = forward(&exact_x, &original.collect::<Vec<_>>(), None, d_in, d_out, rows);
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        let of_format = distance(&forward(&x, &values, None, d_in, d_out, rows), &truth);
        let error = distance(&product(&x, &packed(kind, [d_out, d_in], &bytes), rows), &truth);
        prop_assert!(error <= 2.0 * of_format, "{kind}: {error:e}, the format's {of_format:e}");
        prop_assert!(error > 0.5 * of_format, "{kind}: {error:e} is too good");
    }
}

/// More rows than a task takes, and every number of them that a group may have.
#[test]
fn a_row_has_the_same_bits_among_any_number_of_others() {
    for kind in Blocks::ALL {
        let (most, d_in, d_out) = (520, 512, 40);
        let w = packed(kind, [d_out, d_in], &random_blocks(kind, [d_out, d_in], 1));
        let x = uniform(2, most * d_in).0;
        let all = product(&x, &w, most);
        for (first, rows) in [
            (0, 1),
            (519, 1),
            (3, 2),
            (17, 3),
            (250, 13),
            (1, 257),
            (7, 300),
        ] {
            let part = product(&x[first * d_in..(first + rows) * d_in], &w, rows);
            let expected = &all[first * d_out..(first + rows) * d_out];
            assert!(
                same_bits(&part, expected),
                "{kind}: {rows} rows from {first}"
            );
        }
    }
}

#[test]
fn products_have_the_same_bits_on_any_number_of_threads() {
    for kind in Blocks::ALL {
        let (d_in, d_out) = (768, 530);
        let w = packed(kind, [d_out, d_in], &random_blocks(kind, [d_out, d_in], 1));
        for rows in [1, 5, 300] {
            let x = uniform(2, rows * d_in).0;
            assert_same_bits_on_any_number_of_threads(|| product(&x, &w, rows));
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for kind in Blocks::ALL {
        let (rows, d_in, d_out) = (11, 512, 20);
        let w = packed(kind, [d_out, d_in], &random_blocks(kind, [d_out, d_in], 1));
        let x = uniform(2, rows * d_in).0;
        let clean = product(&x, &w, rows);
        for (bad, r) in [
            (f32::NAN, 0),
            (f32::INFINITY, 5),
            (f32::NEG_INFINITY, 8),
            (-f32::NAN, 10),
        ] {
            let mut x = x.clone();
            x[r * d_in + 300] = bad;
            let y = product(&x, &w, rows);
            for (i, (y, clean)) in y.chunks(d_out).zip(clean.chunks(d_out)).enumerate() {
                match i == r {
                    true => assert!(y.iter().all(|y| y.is_nan()), "{bad} in {kind}"),
                    false => assert!(same_bits(y, clean), "{bad} in {kind}"),
                }
            }
        }
    }
}

#[test]
fn zeros_give_the_bias_and_tiny_values_count_as_zeros() {
    for kind in Blocks::ALL {
        let (d_in, d_out) = (256, 18);
        let w = packed(kind, [d_out, d_in], &random_blocks(kind, [d_out, d_in], 1));
        let b = uniform(3, d_out).0;
        for x in [0.0, -0.0, 3e-37, f32::from_bits(1)] {
            let (x, mut y) = (vec![x; d_in], vec![f32::NAN; d_out]);
            cpu::forward(
                Mat::dense(&x, d_in),
                &w,
                Some(&b),
                MatMut::dense(&mut y, d_out),
            );
            assert_eq!(y, b, "{kind}");
        }
        // Above that nothing is lost, up to the largest that f32 holds.
        for scale in [4e-36_f32, 1e30] {
            let (x, _) = uniform(2, d_in);
            let scaled: Vec<f32> = x.iter().map(|x| x * scale).collect();
            let (y, one) = (product(&scaled, &w, 1), product(&x, &w, 1));
            let size = one.iter().fold(0.0_f32, |m, y| m.max(y.abs()));
            for (y, one) in y.iter().zip(one) {
                // The scaling rounds x, which may move an integer.
                assert!(
                    (y / scale - one).abs() < 0.01 * size,
                    "{kind}: {y} is not {one}"
                );
            }
        }
    }
}

/// Scales at the ends of half precision: zeros, the smallest, the largest, and what is none.
#[test]
fn scales_are_taken_as_they_are_by_every_instruction_set() {
    let (rows, d_out) = (3, 17);
    for kind in Blocks::ALL {
        let d_in = 2 * kind.values();
        let x = uniform(1, rows * d_in).0;
        for bits in [
            0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00,
        ] {
            let mut bytes = random_blocks(kind, [d_out, d_in], 2);
            let of_row = 2 * kind.bytes();
            for &at in halves(kind) {
                set_half(&mut bytes[5 * of_row..], at, bits);
            }
            let w = packed(kind, [d_out, d_in], &bytes);
            let portable = outputs(Set::Portable, &x, &w, rows);
            for set in Set::available() {
                assert!(
                    same_bits(&outputs(set, &x, &w, rows), &portable),
                    "{set:?} {kind} {bits:#x}"
                );
            }
            let exact = forward(
                &reference::rounded(&x),
                &reference::values(kind, &bytes),
                None,
                d_in,
                d_out,
                rows,
            );
            for (i, (y, exact)) in portable.iter().zip(exact).enumerate() {
                let size = if i % d_out == 5 { 65504.0 } else { 1.0 };
                match exact.is_finite() {
                    true => assert!(
                        (f64::from(*y) - exact).abs() < 0.1 * size,
                        "{kind} {bits:#x}: {y} {exact}"
                    ),
                    false => assert!(!y.is_finite(), "{kind} {bits:#x}"),
                }
            }
        }
    }
}

fn outputs(set: Set, x: &[f32], w: &Packed, rows: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * w.rows()];
    let x = Mat::dense(x, w.cols());
    on(
        set,
        x,
        w,
        None,
        MatMut::new(&mut y, rows, w.rows(), w.rows(), 0),
        false,
    );
    y
}
