//! The processor's kernels against the definition over shapes, and the parities: whole, in chunks, packed, alone.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Gradients, Mat, MatMut, ParamId, Tape, Tensor, Var};

use super::reference;
use crate::Starts;
use crate::positions::{PositionsOptions, cpu, positions};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_same_bits_on_any_number_of_threads, dot, uniform,
};

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(serpens_core::Shape::new(shape), values, Device::Cpu).unwrap()
}

/// y of rows of sequences one behind the other in a (batch, length, width) block.
fn run(x: &[f32], table: &[f32], shape: [usize; 3], options: &PositionsOptions<'_>) -> Vec<f32> {
    let width = shape[2];
    let (x, table) = (
        tensor(&shape, x),
        tensor(&[table.len() / width, width], table),
    );
    let y = positions(&x.into(), &table.into(), options).unwrap();
    y.tensor().unwrap().to_vec().unwrap()
}

/// The gradients of x and of the table, the latter of two readings of it.
fn gradients(
    dy: &[f32],
    count: usize,
    shape: [usize; 3],
    starts: Option<&Starts>,
) -> [Vec<f32>; 2] {
    let (tape, id, from) = (Tape::new(), ParamId::fresh(), 0);
    let zeros = |shape: &[usize]| tensor(shape, &vec![0.0; shape.iter().product()]);
    let table = Var::param(id, zeros(&[count, shape[2]]));
    let x = tape.leaf(zeros(&shape));
    let options = PositionsOptions { from, starts };
    let [y, other] = [(); 2].map(|()| positions(&x, &table, &options).unwrap());
    let mut gradients = Gradients::new();
    let seeds = [&other, &y].map(|y| (y, tensor(&shape, dy))).to_vec();
    tape.backward_from(seeds, &mut gradients).unwrap();
    let dx = tape.gradient(&x).unwrap().unwrap();
    let dtable = gradients.get(id).unwrap().unwrap();
    [dx, dtable].map(|gradient| gradient.to_vec().unwrap())
}

fn twice<T: Clone>(values: &[T]) -> Vec<T> {
    [values, values].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_and_gradients_agree_with_the_definition(
        batch in 0usize..5, length in 1usize..30, width in 1usize..70, margin in 0usize..3, beyond in 0usize..4,
        every in 0usize..9, seed: u64,
    ) {
        let (rows, count) = (batch * length, length + beyond);
        let begins = |row: usize| every > 0 && (row + seed as usize % 7).is_multiple_of(every);
        let places = reference::places([batch, length], 0, begins);
        let ((x, _), (table, _)) = (uniform(seed, rows * width), uniform(seed ^ 1, count * width));
        let wide = Wide::new(&x, rows, width, margin);
        let mut y = Wide::blank(rows, width, margin);
        let ids: Vec<u32> = places.iter().map(|&place| place as u32).collect();
        cpu::forward(wide.mat(), Mat::dense(&table, width), &ids, y.mat_mut());
        // One rounding: no error is allowed beside that of the definition in f32.
        prop_assert_eq!(y.dense(), reference::forward(&x, &table, &places, width));

        let mut sequence = 0;
        let ids = (0..rows).map(|row| {
            sequence += u32::from(begins(row));
            sequence
        });
        let ids: Vec<u32> = ids.collect();
        let starts = (every > 0 && batch > 0).then(|| Starts::from_sequence_ids(&ids, batch).unwrap());
        let shape = [batch, length, width];
        let options = PositionsOptions { from: 0, starts: starts.as_ref() };
        prop_assert_eq!(y.dense(), run(&x, &table, shape, &options));

        let (dy, exact) = uniform(seed ^ 2, rows * width);
        let [dx, dtable] = gradients(&dy, count, shape, starts.as_ref());
        let doubled: Vec<f32> = dy.iter().map(|dy| 2.0 * dy).collect();
        prop_assert_eq!(dx, doubled);
        let of_both = |dy: &[f32]| reference::backward(&twice(dy), &twice(&places), count, width);
        prop_assert_eq!(&dtable, &of_both(&dy), "the sums are in the order of the rows");
        let truth = reference::backward(&twice(&exact), &twice(&places), count, width);
        assert_close(&dtable, &of_both(&dy), &truth);
    }

    #[test]
    fn a_sequence_that_goes_on_is_the_whole(
        batch in 1usize..4, first in 1usize..20, second in 1usize..20, from in 0usize..10, seed: u64,
    ) {
        let (width, length) = (5, first + second);
        let (x, table) = (uniform(seed, batch * length * width).0, uniform(1, (from + length) * width).0);
        let part = |begin: usize, end: usize| {
            let rows = x.chunks_exact(length * width);
            let x: Vec<f32> = rows.flat_map(|row| &row[begin * width..end * width]).copied().collect();
            let options = PositionsOptions { from: from + begin, starts: None };
            let y = run(&x, &table, [batch, end - begin, width], &options);
            y.chunks_exact((end - begin) * width).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let parts = part(0, first).into_iter().zip(part(first, length));
        let parts: Vec<f32> = parts.flat_map(|(first, second)| [first, second].concat()).collect();
        prop_assert_eq!(part(0, length).concat(), parts);
    }

    #[test]
    fn packed_sequences_are_as_alone(lengths in prop::collection::vec(0usize..12, 1..6), seed: u64) {
        let (width, length): (usize, usize) = (3, lengths.iter().sum());
        let (x, table) = (uniform(seed, length * width).0, uniform(2, 12 * width).0);
        let starts = Starts::from_lengths(&lengths);
        let options = PositionsOptions { from: 0, starts: Some(&starts) };
        let packed = run(&x, &table, [1, length, width], &options);
        let mut rest = &x[..];
        let alone = lengths.iter().flat_map(|&length| {
            let (x, after) = rest.split_at(length * width);
            rest = after;
            run(x, &table, [1, length, width], &PositionsOptions::default())
        });
        prop_assert_eq!(packed, alone.collect::<Vec<_>>());
    }
}

#[test]
fn rows_begin_with_a_sequence_whatever_was_before_them() {
    let (x, table) = (uniform(1, 24).0, uniform(2, 24).0);
    let whole = Starts::from_sequence_ids(&[0, 0, 0, 1, 1, 0, 0, 0, 0, 0], 2).unwrap();
    let starts = whole.chunk(1..5).unwrap();
    let options = PositionsOptions {
        from: 0,
        starts: Some(&starts),
    };
    let expected = reference::forward(&x, &table, &[0, 1, 0, 1, 0, 1, 2, 3], 3);
    assert_eq!(run(&x, &table, [2, 4, 3], &options), expected);
}

#[test]
fn the_gradient_of_the_definition_is_that_of_finite_differences() {
    let places = reference::places([2, 4], 0, |row| row == 2);
    assert_eq!(places, [0, 1, 0, 1, 0, 1, 2, 3]);
    let (x, table, dy) = (uniform(1, 24).1, uniform(2, 15).1, uniform(3, 24).1);
    let gradient = reference::backward(&dy, &places, 5, 3);
    assert_gradient(&gradient, &table, |table| {
        dot(&dy, &reference::forward(&x, table, &places, 3))
    });
}

#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let shape = [4, 200, 100];
    let (x, table) = (uniform(1, 80_000).0, uniform(2, 20_000).0);
    assert_same_bits_on_any_number_of_threads(|| {
        let y = run(&x, &table, shape, &PositionsOptions::default());
        [y, gradients(&x, 200, shape, None).concat()].concat()
    });
    assert_same_bits_on_any_number_of_threads(|| {
        let (mut h, mut read) = (x.clone(), vec![7; 800]);
        cpu::step(
            MatMut::dense(&mut h, 100),
            Mat::dense(&table, 100),
            &mut read,
        );
        h
    });
}

#[test]
fn what_does_not_fit_is_said() {
    let zeros = |shape: &[usize], dtype| {
        let shape = serpens_core::Shape::new(shape);
        Var::from(Tensor::zeros(shape, dtype, Device::Cpu).unwrap())
    };
    let x = |length| zeros(&[2, length, 4], DType::F32);
    let table = zeros(&[8, 4], DType::F32);
    let of = |length, table: &Var, from, starts: Option<&Starts>| {
        let options = PositionsOptions { from, starts };
        positions(&x(length), table, &options).map(|y| y.shape())
    };
    for (length, from, fits) in [
        (8, 0, true),
        (9, 0, false),
        (3, 5, true),
        (3, 6, false),
        (0, 8, true),
        (1, usize::MAX, false),
    ] {
        match of(length, &table, from, None) {
            Ok(shape) => assert!(fits && shape == x(length).shape()),
            Err(error) => {
                assert!(!fits && matches!(error, Error::Range { .. }), "{error}");
            }
        }
    }
    let error = of(9, &table, 0, None).unwrap_err().to_string();
    assert_eq!(
        error,
        "positions: the last position is 8, expected less than 8"
    );

    // Of packed sequences the longest counts, not the row.
    let two = Starts::from_sequence_ids(&[[0; 8], [1; 8], [2; 8], [3; 8]].concat(), 2).unwrap();
    assert!(of(16, &table, 0, Some(&two)).is_ok());
    let long = Starts::from_sequence_ids(&[[0; 16], [1; 16]].concat(), 2).unwrap();
    let error = |length, from, starts| of(length, &table, from, Some(starts)).unwrap_err();
    assert!(matches!(error(16, 0, &long), Error::Range { got: 15, .. }));
    assert!(matches!(error(16, 1, &two), Error::Surplus { .. }));
    assert!(matches!(error(15, 0, &two), Error::Shape { .. }));

    for (table, dtype) in [
        (&[8, 5][..], DType::F32),
        (&[8, 1, 4], DType::F32),
        (&[8, 4], DType::U32),
    ] {
        assert!(of(3, &zeros(table, dtype), 0, None).is_err(), "{table:?}");
    }
    let narrow = zeros(&[2, 3, 4], DType::BF16);
    let refused = positions(&narrow, &table, &PositionsOptions::default());
    assert!(matches!(refused, Err(Error::DType { .. })));
}
