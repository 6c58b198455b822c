//! Against the `gguf` Python package, bit for bit, and the squared error of llama.cpp
//! (`scripts/make_format_vectors.py`).

use safetensors::SafeTensors;

use super::encode_q4_k::Q4K;
use super::encode_q6_k::Q6K;
use super::search::Search;
use super::*;
use crate::quantized_linear::Blocks::{self, *};
use crate::simd::Isa;

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
    encoder(kind)(values, &mut bytes).then_some(bytes)
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
        let mut row = row.repeat(8);
        for kind in [Q4_K, Q6_K] {
            assert_eq!(encoded(kind, &row), None, "{bad} in {kind}");
            row[40] = 1e30;
            assert_eq!(encoded(kind, &row), None, "1e30 in {kind}");
        }
    }
    for (kind, held, too_large) in [
        (Q8_0, 65519.0 * 127.0, 65521.0 * 127.0),
        (Q4_0, -65519.0 * 8.0, 65521.0 * 8.0),
        (Q4_K, 6e4 * 63.0 * 14.0, 7e4 * 63.0 * 15.0),
        (Q4_K, -6e4 * 63.0, -7e4 * 63.0),
        (Q6_K, 6e4 * 128.0 * 30.0, 7e4 * 128.0 * 32.0),
    ] {
        let mut row = vec![0.0; 256];
        row[40] = held;
        assert!(encoded(kind, &row).is_some(), "{held} in {kind}");
        row[40] = too_large;
        assert_eq!(encoded(kind, &row), None, "{too_large} in {kind}");
    }
}

/// Σ (x - x')² of values as they come back from blocks.
fn squared_error(kind: Blocks, values: &[f32], bytes: &[u8]) -> f64 {
    let back = decoded(kind, bytes);
    let pairs = values.iter().zip(back);
    pairs
        .map(|(x, y)| (f64::from(*x) - f64::from(y)).powi(2))
        .sum()
}

#[test]
fn searched_blocks_are_nearer_than_those_of_llama_cpp() {
    let all = values("searched");
    for (kind, share) in [(Q4_K, 0.97), (Q6_K, 0.94)] {
        let theirs = bytes(&format!("searched.{}", kind.to_string().to_lowercase()));
        let ours = encoded(kind, &all).unwrap();
        let [mut sum, mut sum_of_theirs] = [0.0; 2];
        let each = ours.chunks(kind.bytes()).zip(theirs.chunks(kind.bytes()));
        for (i, (ours, theirs)) in each.enumerate() {
            let x = &all[256 * i..][..256];
            let [ours, theirs] = [ours, theirs].map(|block| squared_error(kind, x, block));
            assert!(
                ours <= 1.1 * theirs,
                "{kind}, block {i}: {ours} against {theirs}"
            );
            let scale: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            sum += ours / scale;
            sum_of_theirs += theirs / scale;
        }
        assert!(
            sum <= share * sum_of_theirs,
            "{kind}: {}",
            sum / sum_of_theirs
        );
    }
}

#[test]
fn what_searched_blocks_hold_exactly_comes_back() {
    let zeros = vec![0.0; 256];
    let ladder: Vec<f32> = (0..256).map(|i| (i % 16) as f32 * 0.25 - 1.0).collect();
    let below: Vec<f32> = (0..256).map(|i| -0.5 * (1 + i / 32) as f32).collect();
    for kind in [Q4_K, Q6_K] {
        for row in [&zeros, &ladder] {
            let made = encoded(kind, row).unwrap();
            let largest = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let error = squared_error(kind, row, &made).sqrt();
            assert!(
                error <= 256.0 * 1e-3 * f64::from(largest),
                "{kind}: {error}"
            );
        }
    }
    assert_eq!(decoded(Q4_K, &encoded(Q4_K, &zeros).unwrap()), zeros);
    let minima = encoded(Q4_K, &below).unwrap();
    // Half a step of the minima at each of the 256.
    assert!(squared_error(Q4_K, &below, &minima) <= 256.0 * (4.0_f64 / 63.0 / 2.0).powi(2));
}

#[test]
fn every_instruction_set_finds_the_same_blocks() {
    let all = values("searched");
    let mut found = [Vec::new(), Vec::new()];
    for isa in Isa::available() {
        let [mut four, mut six] = [Q4_K, Q6_K].map(|kind| vec![0; all.len() / 256 * kind.bytes()]);
        assert!(isa.run(Search::<Q4K>::new(&all, &mut four)));
        assert!(isa.run(Search::<Q6K>::new(&all, &mut six)));
        for (found, here) in found.iter_mut().zip([four, six]) {
            if found.is_empty() {
                found.clone_from(&here);
            }
            assert!(*found == here, "{}", isa.name());
        }
    }
}
