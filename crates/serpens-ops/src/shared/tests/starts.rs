//! Where sequences start, and rows that go on from a state or do not.

use std::ops::Range;

use serpens_core::{DType, Error, Tensor, Var};

use super::cases;
use crate::Starts;
use crate::causal_conv1d::{ConvOptions, causal_conv1d};
use crate::selective_scan::{ScanOperands, ScanOptions, selective_scan};

/// The flags of no position.
const NOTHING: [[u8; 0]; 2] = [[], []];

/// Forward and in reverse, as 0 and 1.
fn flags(starts: &Starts, batch: usize, length: usize) -> [Vec<u8>; 2] {
    [false, true].map(|reverse| {
        let flags = starts.flags("the test", batch, length, reverse).unwrap();
        flags.into_iter().map(u8::from).collect()
    })
}

#[test]
fn sequences_start_where_their_lengths_and_ids_say() {
    // Empty ones start nowhere, whether they stand first, between others or last.
    for lengths in [&[1, 3, 2][..], &[0, 0, 1, 3, 0, 2, 0]] {
        let starts = Starts::from_lengths(lengths);
        let expected = [vec![1, 1, 0, 0, 1, 0], vec![1, 0, 0, 1, 0, 1]];
        assert_eq!(flags(&starts, 1, 6), expected, "{lengths:?}");
        let by_ids = Starts::from_sequence_ids(&[4, 7, 7, 7, 4, 4], 1).unwrap();
        assert_eq!(starts, by_ids);
    }
    for empty in [Starts::from_lengths(&[]), Starts::from_lengths(&[0, 0])] {
        assert_eq!(flags(&empty, 1, 0), NOTHING);
    }
    // A row begins and ends with a sequence even where the next has the same id.
    let rows = Starts::from_sequence_ids(&[1, 1, 1, 1, 1, 2], 2).unwrap();
    assert_eq!(flags(&rows, 2, 3), [[1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]]);
    let none = Starts::from_sequence_ids(&[], 0).unwrap();
    assert_eq!(flags(&none, 0, 0), NOTHING);
}

#[test]
fn a_chunk_starts_and_ends_where_its_sequences_do() {
    let rows = Starts::from_sequence_ids(&[1, 1, 2, 2, 2, 3, 3, 3, 3, 4], 2).unwrap();
    let chunk = |from, to| flags(&rows.chunk(from..to).unwrap(), 2, to - from);
    assert_eq!(chunk(0, 2), [[1, 0, 1, 0], [0, 1, 0, 0]]);
    assert_eq!(chunk(2, 4), [[1, 0, 0, 0], [0, 0, 0, 1]]);
    assert_eq!(chunk(4, 5), [[0, 1], [1, 1]]);
    assert_eq!(chunk(3, 3), NOTHING);
    let inner = rows.chunk(1..5).unwrap().chunk(1..3).unwrap();
    assert_eq!(inner, rows.chunk(2..4).unwrap());
    for outside in [4..6, Range { start: 3, end: 2 }] {
        assert!(matches!(
            rows.chunk(outside),
            Err(Error::Range {
                op: "Starts::chunk",
                ..
            })
        ));
    }
}

#[test]
fn starts_of_another_shape_are_refused() {
    let starts = Starts::from_lengths(&[2, 3]);
    for (batch, length) in [(1, 4), (2, 5)] {
        let error = starts.flags("the test", batch, length, false);
        assert!(matches!(error, Err(Error::Shape { .. })));
    }
}

#[test]
fn whole_rows_refuse_a_state_and_their_chunks_take_it_on_every_device() {
    for (device, dtype) in cases() {
        let ones = |shape: &[usize], dtype| -> Var {
            let zeros = Tensor::zeros(serpens_core::Shape::new(shape), dtype, device);
            zeros.unwrap().into()
        };
        let row = ones(&[1, 5, 3], dtype);
        let whole = Starts::from_lengths(&[2, 3]);
        let chunk = whole.chunk(0..5).unwrap();
        for (starts, reverse) in [(&whole, false), (&whole, true), (&chunk, false)] {
            let (weight, state) = (ones(&[3, 1, 2], DType::F32), ones(&[1, 1, 3], DType::F32));
            let options = ConvOptions {
                starts: Some(starts),
                reverse,
                ..ConvOptions::default()
            };
            let conv = |state| causal_conv1d(&row, &weight, None, state, &options);
            let (a, bc) = (ones(&[3, 1], DType::F32), ones(&[1, 5, 1], dtype));
            let options = ScanOptions {
                starts: Some(starts),
                reverse,
                ..ScanOptions::default()
            };
            let scan_state = ones(&[1, 3, 1], DType::F32);
            let scan = |initial_state| {
                let operands = ScanOperands {
                    u: &row,
                    delta: &row,
                    a: &a,
                    a_im: None,
                    b: &bc,
                    c: &bc,
                    d: None,
                    z: None,
                    delta_bias: None,
                    initial_state,
                };
                selective_scan(&operands, &options)
            };
            assert!(conv(None).is_ok() && scan(None).is_ok());
            let refused = [conv(Some(&state)).err(), scan(Some(&scan_state)).err()];
            for error in refused {
                let surplus = matches!(error, Some(Error::Surplus { .. }));
                assert_eq!(surplus, std::ptr::eq(starts, &whole), "{error:?}");
            }
        }
    }
}
