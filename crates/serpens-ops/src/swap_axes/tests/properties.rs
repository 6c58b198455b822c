//! The processor's kernel against the definition over shapes, and what is refused.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Shape, Tensor, Var};

use super::reference::swapped;
use crate::shared::tests::dense::{Wide, assert_same_bits_on_any_number_of_threads, uniform};
use crate::swap_axes::{cpu, swap_axes};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn places_agree_with_the_definition_and_twice_is_once(
        batch in 0usize..4, rows in 1usize..9, columns in 1usize..9, width in 1usize..40, margin in 0usize..3, seed: u64,
    ) {
        let count = batch * rows * columns;
        let x = Wide::new(&uniform(seed, count * width).0, count, width, margin);
        let (mut y, mut back) = (Wide::blank(count, width, 1), Wide::blank(count, width, margin));
        cpu::swap_axes(x.mat(), [rows, columns], y.mat_mut());
        prop_assert_eq!(y.dense(), swapped(&x.dense(), [rows, columns], width));
        cpu::swap_axes(y.mat(), [columns, rows], back.mat_mut());
        prop_assert_eq!(back.dense(), x.dense());
    }
}

#[test]
fn large_grids_are_the_same_on_any_number_of_threads() {
    let (rows, columns, width) = (37, 50, 21);
    let x = uniform(1, 2 * rows * columns * width).0;
    assert_same_bits_on_any_number_of_threads(|| {
        let mut y = Wide::blank(2 * rows * columns, width, 0);
        let x = Wide::new(&x, 2 * rows * columns, width, 0);
        cpu::swap_axes(x.mat(), [rows, columns], y.mat_mut());
        assert_eq!(y.dense(), swapped(&x.dense(), [rows, columns], width));
        y.dense()
    });
}

#[test]
fn what_does_not_fit_is_said() {
    let of = |shape: &[usize], sizes, dtype| {
        let x: Var = Tensor::zeros(Shape::new(shape), dtype, Device::Cpu)
            .unwrap()
            .into();
        swap_axes(&x, sizes).map(|y| y.shape())
    };
    assert_eq!(of(&[2, 6, 3], [2, 3], DType::F32).unwrap()[..], [2, 6, 3]);
    assert_eq!(of(&[2, 0, 3], [0, 5], DType::F32).unwrap()[..], [2, 0, 3]);
    for sizes in [[2, 4], [6, 0], [usize::MAX, 2]] {
        let refused = of(&[2, 6, 3], sizes, DType::F32);
        assert!(matches!(refused, Err(Error::Count { .. })), "{sizes:?}");
    }
    let flat = of(&[6, 3], [2, 3], DType::F32);
    assert!(matches!(flat, Err(Error::Shape { .. })), "{flat:?}");
    for dtype in [DType::U32, DType::BF16] {
        let refused = of(&[2, 6, 3], [2, 3], dtype);
        assert!(matches!(refused, Err(Error::DType { .. })), "{refused:?}");
    }
}
