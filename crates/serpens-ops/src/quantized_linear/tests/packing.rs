//! What is packed comes back, and what does not fit is refused.

use proptest::prelude::*;
use serpens_core::{Device, Error, ParamId, Tape, Tensor, Var};

use super::{packed, random_blocks, reference, set_half};
use crate::quantized_linear::{Blocks, Packed, quantized_linear};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn blocks_come_back_bit_for_bit_and_rows_have_their_values(
        kind in prop::sample::select(&Blocks::ALL[..]), rows in 0usize..40, blocks in 0usize..4, seed: u64,
    ) {
        let sizes = [rows, blocks * kind.values()];
        let bytes = random_blocks(kind, sizes, seed);
        let w = packed(kind, sizes, &bytes);
        prop_assert_eq!(&w.unpack().unwrap(), &bytes);
        prop_assert_eq!([w.rows(), w.cols()], sizes);
        prop_assert_eq!(w.bytes(), rows.next_multiple_of(16) * blocks * kind.bytes());
        let all = w.dequantize().unwrap();
        let values = all.as_slice::<f32>().unwrap();
        // Two roundings: of scale times minimum, say, and of the difference.
        for (value, exact) in values.iter().zip(reference::values(kind, &bytes)) {
            prop_assert!((f64::from(*value) - exact).abs() <= 4.0 * f64::from(f32::EPSILON));
        }
        let mut row = vec![f32::NAN; sizes[1]];
        for i in 0..rows {
            w.row(i, &mut row).unwrap();
            prop_assert_eq!(&row[..], &values[i * sizes[1]..(i + 1) * sizes[1]]);
        }
    }
}

#[test]
fn what_a_block_can_hold_is_quantised_to_itself() {
    for kind in [Blocks::Q8_0, Blocks::Q4_0] {
        let sizes = [18, 96];
        let mut bytes = random_blocks(kind, sizes, 1);
        for block in bytes.chunks_exact_mut(kind.bytes()) {
            // d is that of the largest magnitude, which is a power of two times an integer.
            set_half(block, 0, 0x2400);
            block[2] = if kind == Blocks::Q8_0 { 127 } else { 0x70 };
            block[2..]
                .iter_mut()
                .for_each(|q| *q = (*q).max(0x81 * u8::from(*q == 0x80)));
        }
        let w = packed(kind, sizes, &bytes);
        let again = Packed::quantize(kind, &w.dequantize().unwrap(), Device::Cpu).unwrap();
        assert_eq!(again.unpack().unwrap(), bytes, "{kind}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let cpu = Device::cpu();
    let odd = Packed::new(Blocks::Q8_0, [2, 40], &[0; 68], cpu);
    assert!(matches!(
        odd,
        Err(Error::Multiple {
            expected: 32,
            got: 40,
            ..
        })
    ));
    let short = Packed::new(Blocks::Q4_K, [2, 256], &[0; 144], cpu);
    assert!(matches!(
        short,
        Err(Error::Count {
            expected: 288,
            got: 144,
            ..
        })
    ));
    let huge = Packed::new(Blocks::Q8_0, [usize::MAX, 32], &[0; 34], cpu);
    assert!(matches!(huge, Err(Error::Count { .. })));

    let large = Tensor::full([1, 32], 1e30_f32, cpu).unwrap();
    let error = Packed::quantize(Blocks::Q8_0, &large, cpu).unwrap_err();
    assert!(
        matches!(&error, Error::Value { got, .. } if *got > 9e29),
        "{error}"
    );

    let w = packed(
        Blocks::Q8_0,
        [3, 64],
        &random_blocks(Blocks::Q8_0, [3, 64], 1),
    );
    assert!(matches!(w.row(3, &mut [0.0; 64]), Err(Error::Range { .. })));
    assert!(matches!(w.row(0, &mut [0.0; 63]), Err(Error::Count { .. })));
    let zeros = |sizes: &[usize]| -> Var {
        let shape = serpens_core::Shape::try_from(sizes).unwrap();
        Tensor::full(shape, 0.0_f32, cpu).unwrap().into()
    };
    let narrow = quantized_linear(&zeros(&[2, 32]), &w, None);
    assert!(matches!(narrow, Err(Error::Shape { what: "x", .. })));
    let bias = quantized_linear(&zeros(&[2, 64]), &w, Some(&zeros(&[4])));
    assert!(matches!(bias, Err(Error::Shape { what: "bias", .. })));
    let y = quantized_linear(&zeros(&[5, 2, 64]), &w, Some(&zeros(&[3]))).unwrap();
    assert_eq!(y.shape()[..], [5, 2, 3]);

    let tape = Tape::new();
    let x = tape.leaf(Tensor::full([1, 64], 0.0_f32, cpu).unwrap());
    let error = quantized_linear(&x, &w, None).unwrap_err();
    assert!(matches!(error, Error::NoGradient { .. }), "{error}");
    // What a tape merely carries along is no gradient's way.
    let carried = tape.constant(Tensor::full([1, 64], 0.0_f32, cpu).unwrap());
    let bias = Var::param(ParamId::fresh(), Tensor::full([3], 0.0_f32, cpu).unwrap());
    assert!(quantized_linear(&carried, &w, None).is_ok());
    assert!(quantized_linear(&carried, &w, Some(&bias)).is_err());
}
