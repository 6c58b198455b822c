//! The processor's kernels against the definition over shapes.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Shape, Tensor, Var};

use super::reference;
use crate::offset_scale::{cpu, offset_scale};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_and_gradients_agree_with_the_definition(
        rows in 0usize..90, cols in 1usize..70, heads in 1usize..5, margin in 0usize..3, seed: u64,
    ) {
        let width = heads * cols;
        let ((x, exact_x), (dy, exact_dy)) = (uniform(seed, rows * cols), uniform(seed ^ 1, rows * width));
        let ((scale, exact_scale), (offset, exact_offset)) = (uniform(seed ^ 2, width), uniform(seed ^ 3, width));
        let (wide, wide_dy) = (Wide::new(&x, rows, cols, margin), Wide::new(&dy, rows, width, 1));
        let mut y = Wide::blank(rows, width, margin);
        cpu::forward(wide.mat(), &scale, &offset, y.mat_mut());
        let plain = reference::forward(&x, &scale, &offset, cols);
        assert_close(&y.dense(), &plain, &reference::forward(&exact_x, &exact_scale, &exact_offset, cols));

        let mut dx = Wide::blank(rows, cols, margin);
        let [mut dscale, mut doffset] = [(); 2].map(|()| vec![f32::NAN; width]);
        cpu::backward(wide_dy.mat(), wide.mat(), &scale, dx.mat_mut(), &mut dscale, &mut doffset);
        let plain = reference::backward(&dy, &x, &scale, cols);
        let truth = reference::backward(&exact_dy, &exact_x, &exact_scale, cols);
        for (got, (plain, truth)) in [dx.dense(), dscale, doffset].iter().zip(plain.iter().zip(&truth)) {
            assert_close(got, plain, truth);
        }
    }
}

#[test]
fn the_gradients_of_the_definition_are_those_of_finite_differences() {
    let (cols, width) = (3, 6);
    let [x, scale, offset, dy] = [12, width, width, 24].map(|len| uniform(len as u64, len).1);
    let [dx, dscale, doffset] = reference::backward(&dy, &x, &scale, cols);
    let loss = |x: &[f64], scale: &[f64], offset: &[f64]| {
        dot(&dy, &reference::forward(x, scale, offset, cols))
    };
    assert_gradient(&dx, &x, |x| loss(x, &scale, &offset));
    assert_gradient(&dscale, &scale, |scale| loss(&x, scale, &offset));
    assert_gradient(&doffset, &offset, |offset| loss(&x, &scale, offset));
}

#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let (rows, cols, width) = (700, 50, 100);
    let [x, dy] = [(1, cols), (2, width)]
        .map(|(seed, cols)| Wide::new(&uniform(seed, rows * cols).0, rows, cols, 1));
    let [scale, offset] = [3, 4].map(|seed| uniform(seed, width).0);
    assert_same_bits_on_any_number_of_threads(|| {
        let (mut y, mut dx) = (Wide::blank(rows, width, 0), Wide::blank(rows, cols, 0));
        let [mut dscale, mut doffset] = [(); 2].map(|()| vec![f32::NAN; width]);
        cpu::forward(x.mat(), &scale, &offset, y.mat_mut());
        let dx_mat = dx.mat_mut();
        cpu::backward(dy.mat(), x.mat(), &scale, dx_mat, &mut dscale, &mut doffset);
        [y.dense(), dx.dense(), dscale, doffset].concat()
    });
}

#[test]
fn what_does_not_fit_is_said() {
    let zeros = |shape: &[usize], dtype| {
        let shape = Shape::new(shape);
        Var::from(Tensor::zeros(shape, dtype, Device::Cpu).unwrap())
    };
    let of = |x: &[usize], scale: &[usize], offset: &[usize]| {
        let [x, scale, offset] = [x, scale, offset].map(|shape| zeros(shape, DType::F32));
        offset_scale(&x, &scale, &offset).map(|y| y.shape())
    };
    assert_eq!(of(&[2, 3, 4], &[8], &[8]).unwrap()[..], [2, 3, 8]);
    assert_eq!(of(&[4], &[4], &[4]).unwrap()[..], [4]);
    assert_eq!(of(&[0, 4], &[12], &[12]).unwrap()[..], [0, 12]);
    let error = of(&[2, 4], &[6], &[6]).unwrap_err().to_string();
    let expected = "offset_scale: the number of values of scale is 6, expected a multiple of 4";
    assert_eq!(error, expected);
    for (x, scale, offset) in [
        (&[][..], &[1][..], &[1][..]),
        (&[2, 4], &[2, 4], &[8]),
        (&[2, 4], &[8], &[4]),
        (&[2, 4], &[8], &[2, 4]),
    ] {
        let refused = of(x, scale, offset);
        assert!(matches!(refused, Err(Error::Shape { .. })), "{x:?}");
    }
    for (x, scale) in [(&[2, 0][..], &[4][..]), (&[2, 4], &[0])] {
        let refused = of(x, scale, scale);
        assert!(matches!(refused, Err(Error::Range { .. })), "{x:?}");
    }
    for (x, scale) in [(DType::BF16, DType::F32), (DType::F32, DType::BF16)] {
        let (x, scale) = (zeros(&[2, 4], x), zeros(&[4], scale));
        let refused = offset_scale(&x, &scale, &zeros(&[4], DType::F32));
        assert!(matches!(refused, Err(Error::DType { .. })));
    }
}
