//! The processor's kernel against the definition over shapes, and what a rotation is.

use proptest::prelude::*;
use serpens_core::{Device, Error, Tensor, Var};

use super::reference;
use crate::rope::{RopeOptions, Turn, cpu, rope};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_same_bits_on_any_number_of_threads, uniform,
};

/// Rows of one sequence, turned.
fn turned(x: &[f32], columns: usize, options: RopeOptions, back: bool) -> Vec<f32> {
    let length = x.len() / columns;
    let mut y = Wide::blank(length, columns, 0);
    let turn = Turn {
        options,
        length,
        back,
    };
    cpu::turn(Wide::new(x, length, columns, 0).mat(), y.mat_mut(), &turn);
    y.dense()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_agree_with_the_definition(
        batch in 0usize..4, length in 1usize..140, heads in 1usize..4, pairs in 1usize..40,
        margin in 0usize..3, from in 0usize..2_000_000, back: bool, seed: u64,
    ) {
        let (rows, columns) = (batch * length, heads * 2 * pairs);
        let (x, exact) = uniform(seed, rows * columns);
        let wide = Wide::new(&x, rows, columns, margin);
        let mut y = Wide::blank(rows, columns, margin);
        let options = RopeOptions { head: 2 * pairs, base: 10_000.0, from };
        cpu::turn(wide.mat(), y.mat_mut(), &Turn { options, length, back });
        let plain = reference::turn(&x, columns, length, &options, back);
        let truth = reference::turn(&exact, columns, length, &options, back);
        assert_close(&y.dense(), &plain, &truth);
    }

    #[test]
    fn a_sequence_that_goes_on_is_the_whole(first in 1usize..200, second in 1usize..100, from in 0usize..1_000_000) {
        let (columns, options) = (24, RopeOptions { head: 12, base: 10_000.0, from });
        let (x, _) = uniform(1, (first + second) * columns);
        let whole = turned(&x, columns, options, false);
        let on = RopeOptions { from: from + first, ..options };
        let parts = [
            turned(&x[..first * columns], columns, options, false),
            turned(&x[first * columns..], columns, on, false),
        ];
        let whole: Vec<f64> = whole.iter().map(|&v| v.into()).collect();
        let parts: Vec<f64> = parts.concat().iter().map(|&v| v.into()).collect();
        // Stretches begin elsewhere, in angles that agree to f64.
        let largest = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        prop_assert!(largest < 1e-6, "{largest}");
    }

    #[test]
    fn a_product_of_turned_rows_depends_on_the_difference_of_their_positions(
        behind in 0usize..3000, from in 0usize..1_000_000, seed: u64,
    ) {
        let head = 64;
        let [q, k] = [0, 1].map(|i| uniform(seed ^ i, head).0);
        let at = |x: &[f32], from| turned(x, head, RopeOptions { head, base: 10_000.0, from }, false);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let here = dot(&at(&q, behind), &at(&k, 0));
        let there = dot(&at(&q, from + behind), &at(&k, from));
        prop_assert!((here - there).abs() < 1e-4, "{here} and {there}");
    }

    #[test]
    fn turning_keeps_norms_and_turning_back_undoes_it(from in 0usize..1_000_000, seed: u64) {
        let (columns, options) = (36, RopeOptions { head: 18, base: 10_000.0, from });
        let (x, exact) = uniform(seed, 5 * columns);
        let y = turned(&x, columns, options, false);
        for (x, y) in exact.chunks_exact(18).zip(y.chunks_exact(18)) {
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let of_y = y.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>().sqrt();
            prop_assert!((norm - of_y).abs() < 1e-6 * norm);
        }
        assert_close(&turned(&y, columns, options, true), &x, &exact);
    }
}

#[test]
fn long_sequences_have_the_same_bits_on_any_number_of_threads() {
    let (columns, options) = (
        96,
        RopeOptions {
            head: 32,
            base: 10_000.0,
            from: 9,
        },
    );
    let (x, _) = uniform(1, 500 * columns);
    assert_same_bits_on_any_number_of_threads(|| turned(&x, columns, options, false));
}

#[test]
fn what_cannot_be_turned_is_refused() {
    let x: Var = Tensor::full([1, 3, 30], 1.0_f32, Device::Cpu)
        .unwrap()
        .into();
    let options = RopeOptions {
        head: 10,
        base: 10_000.0,
        from: 0,
    };
    assert!(rope(&x, &options).is_ok());
    for head in [0, 3, 4, 15] {
        assert!(
            rope(&x, &RopeOptions { head, ..options }).is_err(),
            "{head}"
        );
    }
    for base in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let refused = rope(&x, &RopeOptions { base, ..options });
        assert!(matches!(refused, Err(Error::Value { .. })), "{base}");
    }
    for from in [(1 << 31) - 3, usize::MAX] {
        let refused = rope(&x, &RopeOptions { from, ..options });
        assert!(matches!(refused, Err(Error::Range { .. })), "{from}");
    }
}
