//! Against NumPy, bit for bit (`scripts/make_format_vectors.py`).

use safetensors::SafeTensors;
use serpens_ops::quantized_linear::Blocks;

use super::*;
use crate::Encoding::{BF16, F16, F64};

const VECTORS: &[u8] = include_bytes!("../../tests/data/halves.safetensors");

/// The bytes of an array of the reference file.
fn bytes(name: &str) -> &'static [u8] {
    let file = SafeTensors::deserialize(VECTORS).unwrap();
    file.tensor(name).unwrap().data()
}

fn encoded(encoding: Encoding, values: &[f32]) -> Option<Vec<u8>> {
    encode(encoding, encoder(encoding).unwrap(), values)
}

fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / encoding.block().1];
    decoder(encoding).unwrap()(bytes, &mut values);
    values
}

#[test]
fn halves_are_rounded_as_numpy_does() {
    let words = bytes("values").as_chunks().0.iter();
    let x: Vec<f32> = words.map(|&word| f32::from_le_bytes(word)).collect();
    for (encoding, name) in [(F16, "values.f16"), (BF16, "values.bf16")] {
        assert_eq!(encoded(encoding, &x).unwrap(), bytes(name), "{encoding}");
    }
}

#[test]
fn all_halves_are_read_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (bits, read) in (0..=u16::MAX).zip(decoded(F16, &all)) {
        // By definition: (1 +) fraction / 1024 and the exponent, in f64.
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            31 if fraction > 0.0 => f64::NAN,
            31 => f64::INFINITY,
            0 => fraction * 2_f64.powi(-24),
            _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
        };
        let expected = if bits >> 15 == 1 {
            -magnitude
        } else {
            magnitude
        } as f32;
        assert!(
            read == expected || read.is_nan() && expected.is_nan(),
            "{bits:#x}"
        );
        assert_eq!(read.is_sign_negative(), bits >> 15 == 1, "{bits:#x}");
    }
}

#[test]
fn doubles_are_rounded() {
    let stored: Vec<u8> = [0.1_f64, -1e-50, 1e300]
        .into_iter()
        .flat_map(f64::to_le_bytes)
        .collect();
    assert_eq!(decoded(F64, &stored), [0.1, -0.0, f32::INFINITY]);
}

#[test]
fn what_an_encoding_cannot_hold_is_refused() {
    let mut row = vec![1.0_f32; 64];
    for encoding in [F16, BF16] {
        // These have their own.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            row[40] = bad;
            assert!(encoded(encoding, &row).is_some(), "{bad} in {encoding}");
        }
    }
    for (encoding, held, too_large) in [
        (F16, 65519.996, 65520.0),
        (BF16, f32::from_bits(0x7f7f_7fff), f32::MAX),
    ] {
        row[40] = held;
        assert!(encoded(encoding, &row).is_some(), "{held} in {encoding}");
        row[40] = too_large;
        assert_eq!(encoded(encoding, &row), None, "{too_large} in {encoding}");
    }
}

#[test]
fn what_is_made_in_chunks_by_many_threads_is_the_same() {
    let row: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    let many: Vec<f32> = row.iter().copied().cycle().take(32 * 20_001).collect();
    for encoding in [
        F16,
        Encoding::Blocks(Blocks::Q8_0),
        Encoding::Blocks(Blocks::Q4_0),
    ] {
        let one = encoded(encoding, &row).unwrap();
        let all = encoded(encoding, &many).unwrap();
        assert!(
            all.chunks(one.len()).all(|block| block == one),
            "{encoding}"
        );
        assert_eq!(all.len(), 20_001 * one.len());
    }
}
