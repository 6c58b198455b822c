//! Against the `gguf` Python package, bit for bit (`scripts/make_format_vectors.py`).

use safetensors::SafeTensors;

use super::*;
use crate::quantized_linear::Blocks::{self, *};

const VECTORS: &[u8] = include_bytes!("../../../../tests/fixtures/blocks.safetensors");

/// The bytes of an array of the reference file.
fn bytes(name: &str) -> &'static [u8] {
    let file = SafeTensors::deserialize(VECTORS).unwrap();
    file.tensor(name).unwrap().data()
}

fn values(name: &str) -> Vec<f32> {
    let words = bytes(name).as_chunks().0.iter();
    words.map(|&word| f32::from_le_bytes(word)).collect()
}

fn encoded(kind: Blocks, values: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; values.len() / kind.values() * kind.bytes()];
    encoder(kind).unwrap()(values, &mut bytes).then_some(bytes)
}

fn decoded(kind: Blocks, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / kind.bytes() * kind.values()];
    decoder(kind)(bytes, &mut values);
    values
}

#[test]
fn blocks_are_read_bit_for_bit() {
    for kind in Blocks::ALL {
        let read = decoded(kind, bytes(&format!("{kind}.blocks")));
        let expected = values(&format!("{kind}.values"));
        assert!(expected.len() > 700 && expected.iter().any(|x| *x != 0.0));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&expected), "{kind}");
    }
}

#[test]
fn blocks_are_made_bit_for_bit() {
    let rows = values("rows");
    for (kind, expected) in [(Q8_0, bytes("rows.q8_0")), (Q4_0, bytes("rows.q4_0"))] {
        let made = encoded(kind, &rows).unwrap();
        let pairs = made.chunks(kind.bytes()).zip(expected.chunks(kind.bytes()));
        for (i, (made, expected)) in pairs.enumerate() {
            let row = &rows[32 * i..][..32];
            assert_eq!(made, expected, "{kind}, row {i}: {row:?}");
        }
        assert_eq!(made.len(), expected.len());
    }
}

#[test]
fn what_blocks_cannot_hold_is_refused() {
    let mut row = vec![1.0_f32; 64];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        row[40] = bad;
        for kind in [Q8_0, Q4_0] {
            assert_eq!(encoded(kind, &row), None, "{bad} in {kind}");
        }
    }
    for (kind, held, too_large) in [
        (Q8_0, 65519.0 * 127.0, 65521.0 * 127.0),
        (Q4_0, -65519.0 * 8.0, 65521.0 * 8.0),
    ] {
        row[40] = held;
        assert!(encoded(kind, &row).is_some(), "{held} in {kind}");
        row[40] = too_large;
        assert_eq!(encoded(kind, &row), None, "{too_large} in {kind}");
    }
}
