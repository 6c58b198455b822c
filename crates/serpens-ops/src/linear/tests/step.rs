//! Products that read W as it is stored, and what a step puts around them.

use serpens_core::{Device, Error, Mat, MatMut, Tape, Tensor, Var, bf16};

use super::reference;
use crate::linear::{Norm, ProductPrecision, Weight, cpu, linear, step};
use crate::quantized_linear::{Blocks, Packed};
use crate::rms_norm;
use crate::shared::tests::dense::{
    assert_close, assert_same_bits_on_any_number_of_threads, uniform,
};

fn matrix(values: &[f32], cols: usize) -> Tensor {
    Tensor::from_slice([values.len() / cols, cols], values, Device::Cpu).unwrap()
}

/// Values that bf16 holds, as such and in f32.
pub(super) fn narrow(seed: u64, [rows, cols]: [usize; 2]) -> (Tensor, Vec<f32>) {
    let narrow: Vec<bf16> = uniform(seed, rows * cols)
        .0
        .iter()
        .map(|v| bf16::from_f32(*v))
        .collect();
    let wide = narrow.iter().map(|v| v.to_f32()).collect();
    (
        Tensor::from_slice([rows, cols], &narrow, Device::Cpu).unwrap(),
        wide,
    )
}

/// W norm(x) + b, added to ones where `accumulate`.
fn stepped(
    x: &[f32],
    norm: Option<Norm>,
    w: Weight,
    bias: Option<&Tensor>,
    accumulate: bool,
) -> Vec<f32> {
    let [outputs, inputs] = w.shape();
    let x = matrix(x, inputs);
    let start = if accumulate { 1.0_f32 } else { f32::NAN };
    let mut y = Tensor::full([x.shape().rows(), outputs], start, Device::Cpu).unwrap();
    let bias = bias.map(Tensor::view);
    step(x.view(), norm, w, bias, y.view_mut().unwrap(), accumulate).unwrap();
    y.to_vec().unwrap()
}

#[test]
fn a_matrix_in_bf16_gives_the_product_of_its_values() {
    for (rows, inputs, outputs) in [
        (1, 70, 33),
        (3, 5, 3),
        (8, 768, 80),
        (128, 33, 17),
        (129, 70, 33),
        (140, 600, 500),
    ] {
        let (w, wide) = narrow(1, [outputs, inputs]);
        let ((x, exact_x), (b, exact_b)) = (uniform(2, rows * inputs), uniform(3, outputs));
        let bias = Tensor::from_slice([outputs], &b, Device::Cpu).unwrap();
        let y = stepped(&x, None, Weight::Plain(w.view()), Some(&bias), false);
        if rows <= cpu::FEW_ROWS {
            let mut expected = vec![0.0; rows * outputs];
            cpu::forward(
                Mat::dense(&x, inputs),
                &wide,
                Some(&b),
                MatMut::dense(&mut expected, outputs),
            );
            assert_eq!(y, expected, "{rows} rows, {inputs} to {outputs}");
        }
        let plain = reference::forward(&x, &wide, Some(&b), inputs, outputs, rows);
        let exact_w: Vec<f64> = wide.iter().map(|v| f64::from(*v)).collect();
        let truth = reference::forward(&exact_x, &exact_w, Some(&exact_b), inputs, outputs, rows);
        assert_close(&y, &plain, &truth);
        let on_vars = linear(
            &matrix(&x, inputs).into(),
            &w.into(),
            Some(&bias.into()),
            ProductPrecision::Full,
        );
        assert_eq!(
            on_vars.unwrap().tensor().unwrap().to_vec::<f32>().unwrap(),
            y
        );
    }
}

#[test]
fn a_matrix_in_bf16_has_no_gradient_on_the_processor() {
    let tape = Tape::new();
    let x = tape.leaf(matrix(&[1.0; 6], 3));
    let w: Var = narrow(1, [2, 3]).0.into();
    let error = linear(&x, &w, None, ProductPrecision::Full).unwrap_err();
    assert!(matches!(error, Error::NoGradient { .. }), "{error}");
    let x = tape.constant(matrix(&[1.0; 6], 3));
    assert!(linear(&x, &w, None, ProductPrecision::Full).is_ok());
}

#[test]
fn a_step_normalises_before_and_adds_behind() {
    for rows in [1, 2, 7, 40, 150] {
        let (inputs, outputs, eps) = (256, 19, 1e-5);
        let ((x, _), (weight, _), (w, _), (b, _)) = (
            uniform(1, rows * inputs),
            uniform(2, inputs),
            uniform(3, outputs * inputs),
            uniform(4, outputs),
        );
        let (mut normal, mut rstd) = (vec![0.0; rows * inputs], vec![0.0; rows]);
        rms_norm::cpu::forward(
            Mat::dense(&x, inputs),
            None,
            &weight,
            eps,
            None,
            MatMut::dense(&mut normal, inputs),
            &mut rstd,
        );
        let (wide, bias) = (
            matrix(&w, inputs),
            Tensor::from_slice([outputs], &b, Device::Cpu).unwrap(),
        );
        let weight = Tensor::from_slice([inputs], &weight, Device::Cpu).unwrap();
        let norm = Norm {
            weight: weight.view(),
            eps,
        };
        let narrow = narrow(3, [outputs, inputs]).0;
        let packed = Packed::quantize(Blocks::Q8_0, &wide, Device::Cpu).unwrap();
        for w in [
            Weight::Plain(wide.view()),
            Weight::Plain(narrow.view()),
            Weight::Packed(&packed),
        ] {
            for bias in [None, Some(&bias)] {
                let y = stepped(&x, Some(norm), w, bias, false);
                assert_eq!(y, stepped(&normal, None, w, bias, false), "{rows} rows");
                let added = stepped(&x, Some(norm), w, bias, true);
                // A sum that starts with what is there may be rounded otherwise.
                let near =
                    |(a, y): (&f32, f32)| (a - (1.0 + y)).abs() <= 1e-5 * (1.0 + y.abs()) * 16.0;
                assert!(added.iter().zip(y).all(near), "{rows} rows");
            }
        }
    }
}

#[test]
fn a_step_has_the_same_bits_on_any_number_of_threads() {
    let (rows, inputs, outputs) = (5, 768, 530);
    let (x, (w, _), weight) = (
        uniform(1, rows * inputs).0,
        narrow(2, [outputs, inputs]),
        matrix(&uniform(3, inputs).0, inputs),
    );
    assert_same_bits_on_any_number_of_threads(|| {
        let norm = Norm {
            weight: weight.view(),
            eps: 1e-5,
        };
        stepped(&x, Some(norm), Weight::Plain(w.view()), None, true)
    });
}

#[test]
fn a_step_refuses_what_does_not_fit() {
    let (w, x) = (matrix(&[0.0; 6], 3), matrix(&[0.0; 6], 3));
    let refused = |x: &Tensor, norm: usize, bias: usize, y: [usize; 2]| {
        let [norm, bias] = [norm, bias].map(|n| Tensor::full([n], 1.0_f32, Device::Cpu).unwrap());
        let mut y = Tensor::full(y, 0.0_f32, Device::Cpu).unwrap();
        let norm = Norm {
            weight: norm.view(),
            eps: 1e-5,
        };
        let w = Weight::Plain(w.view());
        step(
            x.view(),
            Some(norm),
            w,
            Some(bias.view()),
            y.view_mut().unwrap(),
            false,
        )
    };
    assert!(refused(&x, 3, 2, [2, 2]).is_ok());
    for (norm, bias, y) in [
        (2, 2, [2, 2]),
        (3, 3, [2, 2]),
        (3, 2, [3, 2]),
        (3, 2, [2, 3]),
    ] {
        assert!(matches!(
            refused(&x, norm, bias, y),
            Err(Error::Count { .. })
        ));
    }
    let wide = matrix(&[0.0; 8], 4);
    assert!(matches!(
        refused(&wide, 3, 2, [2, 2]),
        Err(Error::Count {
            what: "columns of x",
            ..
        })
    ));
    let ids = Tensor::full([2, 3], 1_u32, Device::Cpu).unwrap();
    assert!(matches!(
        refused(&ids, 3, 2, [2, 2]),
        Err(Error::DType { .. })
    ));
}
