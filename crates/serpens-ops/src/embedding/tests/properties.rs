//! The kernels against the definition.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, MAX_RANK, MatMut, Tensor};

use super::reference;
use crate::embedding::{cpu, embedding};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};

fn some_ids(seed: u64, len: usize, vocabulary: usize) -> Vec<u32> {
    let values = uniform(seed, len).0.into_iter();
    values
        .map(|v| (v.abs() * 1e4) as u32 % vocabulary as u32)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_and_their_gradients_agree_with_the_definition(
        rows in 0usize..40, vocabulary in 1usize..9, cols in 1usize..150, margin in 0usize..3, seed: u64,
    ) {
        let ids = some_ids(seed, rows, vocabulary);
        let (table, _) = uniform(seed, vocabulary * cols);
        let mut out = Wide::blank(rows, cols, margin);
        cpu::forward(&ids, &table, out.mat_mut());
        prop_assert_eq!(out.dense(), reference::forward(&ids, &table, cols));

        let (dy, exact) = uniform(seed ^ 1, rows * cols);
        let wide = Wide::new(&dy, rows, cols, margin);
        let mut dtable = vec![5.0; vocabulary * cols];
        cpu::backward(&ids, wide.mat(), &mut dtable, false);
        let plain = reference::backward(&ids, &dy, vocabulary, cols);
        assert_close(&dtable, &plain, &reference::backward(&ids, &exact, vocabulary, cols));

        let mut added = vec![1.0; vocabulary * cols];
        cpu::backward(&ids, wide.mat(), &mut added, true);
        for (added, sum) in added.iter().zip(&dtable) {
            prop_assert!((added - 1.0 - sum).abs() < 1e-5 * (1.0 + sum.abs()));
        }
    }
}

#[test]
fn the_gradient_of_the_definition_is_that_of_finite_differences() {
    let (ids, (_, table), (_, dy)) = ([2, 0, 2, 3], uniform(1, 20), uniform(2, 16));
    let gradient = reference::backward(&ids, &dy, 5, 4);
    assert_gradient(&gradient, &table, |t| {
        dot(&dy, &reference::forward(&ids, t, 4))
    });
}

#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let (rows, cols, vocabulary) = (700, 200, 100);
    let ids = some_ids(7, rows, vocabulary);
    let dy = Wide::new(&uniform(1, rows * cols).0, rows, cols, 0);
    assert_same_bits_on_any_number_of_threads(|| {
        let mut dtable = vec![1.0; vocabulary * cols];
        cpu::backward(&ids, dy.mat(), &mut dtable, false);
        dtable
    });
}

#[test]
#[should_panic(expected = "an id is not below the vocabulary")]
fn ids_outside_the_vocabulary_are_refused_before_any_work() {
    let mut out = [0.0; 4];
    cpu::forward(&[1, 3], &[0.0; 6], MatMut::dense(&mut out, 2));
}

#[test]
fn ids_of_as_many_axes_as_there_may_be_are_refused() {
    let cpu = Device::cpu();
    let ids = Tensor::zeros([1; MAX_RANK], DType::U32, cpu).unwrap();
    let table = Tensor::zeros([3, 2], DType::F32, cpu).unwrap();
    let rows = embedding(&ids.into(), &table.into());
    assert!(matches!(rows, Err(Error::Range { got: 7, .. })));
}
