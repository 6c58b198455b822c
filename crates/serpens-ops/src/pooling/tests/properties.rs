//! The processor's kernels against the definition over shapes; packed sequences, long ones, and scores of −∞.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Mat, MatMut, Shape, Tensor, Var};

use super::{KINDS, packed, reference, unpacked};
use crate::Starts;
use crate::pooling::{Attended, Parts, Pooling, PoolingOptions, cpu, pooling};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_close_sums, assert_gradient,
    assert_same_bits_on_any_number_of_threads, dot, uniform,
};

/// x, scores, and the gradient of y.
struct Rows<'a> {
    x: Mat<'a>,
    scores: Mat<'a>,
    dy: Mat<'a>,
}

/// y, dx and, of attention, the gradient of the scores.
fn run(kind: Pooling, rows: &Rows, parts: &Parts, margin: usize) -> [Vec<f32>; 3] {
    let Rows { x, scores, dy } = *rows;
    let (count, width) = (x.rows(), x.cols());
    let mut y = Wide::blank(parts.sequences(), width, margin);
    let mut norms = vec![f32::NAN; parts.sequences() * 2];
    let given = (kind == Pooling::Attention).then_some(scores);
    let norms_out = MatMut::dense(&mut norms, 2);
    cpu::forward(kind, x, given, parts, y.mat_mut(), norms_out);
    let (mut dx, mut dscores) = (
        Wide::blank(count, width, margin),
        Wide::blank(count, 1, margin),
    );
    let attended = given.map(|scores| Attended {
        x,
        scores,
        y: y.mat(),
        dscores: dscores.mat_mut(),
    });
    cpu::backward(
        kind,
        parts,
        Mat::dense(&norms, 2),
        dy,
        attended,
        dx.mat_mut(),
    );
    let dscores = if given.is_some() {
        dscores.dense()
    } else {
        vec![]
    };
    [y.dense(), dx.dense(), dscores]
}

fn starts_every(shape: [usize; 2], every: usize) -> (Option<Starts>, Vec<usize>) {
    if every == 0 || shape[0] == 0 {
        return (None, unpacked(shape));
    }
    let (starts, bounds) = packed(shape, |row| row.is_multiple_of(every));
    (Some(starts), bounds)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_and_gradients_agree_with_the_definition(
        batch in 0usize..4, length in 1usize..300, width in 1usize..40, margin in 0usize..3, every in 0usize..200,
        size in 0usize..3, seed: u64,
    ) {
        let (starts, bounds) = starts_every([batch, length], every);
        let parts = Parts::new(starts.as_ref(), [batch, length], Device::Cpu).unwrap();
        let (rows, sequences) = (batch * length, bounds.len() - 1);
        prop_assert_eq!(parts.sequences(), sequences);
        let (x, exact_x) = uniform(seed, rows * width);
        let scores: Vec<f32> = uniform(seed ^ 1, rows).0.iter().map(|v| v * [1.0, 10.0, 1e4][size]).collect();
        let exact_scores: Vec<f64> = scores.iter().map(|&v| f64::from(v)).collect();
        let (dy, exact_dy) = uniform(seed ^ 2, sequences * width);
        let (wide_x, wide_scores) = (Wide::new(&x, rows, width, margin), Wide::new(&scores, rows, 1, margin));
        let wide_dy = Wide::new(&dy, sequences, width, 1);
        let operands = Rows { x: wide_x.mat(), scores: wide_scores.mat(), dy: wide_dy.mat() };
        for kind in KINDS {
            let [y, dx, dscores] = run(kind, &operands, &parts, margin);
            let plain = reference::shares(kind, &scores, &bounds);
            let truth = reference::shares(kind, &exact_scores, &bounds);
            let plain_y = reference::forward(&x, &plain, &bounds, width);
            assert_close(&y, &plain_y, &reference::forward(&exact_x, &truth, &bounds, width));
            let [plain_dx, plain_dscores] = reference::backward(&dy, &x, &plain, &bounds, width);
            let [truth_dx, truth_dscores] = reference::backward(&exact_dy, &exact_x, &truth, &bounds, width);
            assert_close(&dx, &plain_dx, &truth_dx);
            if kind == Pooling::Attention {
                // The largest terms of the products that are summed.
                let terms: Vec<f64> = truth.iter().map(|share| share * 4.0 * (width as f64).sqrt()).collect();
                assert_close_sums(&dscores, &plain_dscores, &truth_dscores, &terms);
            }
        }
    }

    #[test]
    fn packed_sequences_are_as_alone(lengths in prop::collection::vec(1usize..400, 1..6), seed: u64) {
        let (width, length): (usize, usize) = (5, lengths.iter().sum());
        let (x, scores) = (uniform(seed, length * width).0, uniform(seed ^ 1, length).0);
        let dy = uniform(seed ^ 2, lengths.len() * width).0;
        let starts = Starts::from_lengths(&lengths);
        let parts = Parts::new(Some(&starts), [1, length], Device::Cpu).unwrap();
        let operands = Rows { x: Mat::dense(&x, width), scores: Mat::dense(&scores, 1), dy: Mat::dense(&dy, width) };
        for kind in KINDS {
            let mut alone = [vec![], vec![], vec![]];
            let mut from = 0;
            for (s, &length) in lengths.iter().enumerate() {
                let to = from + length;
                let parts = Parts::new(None, [1, length], Device::Cpu).unwrap();
                let operands = Rows {
                    x: Mat::dense(&x[from * width..to * width], width),
                    scores: Mat::dense(&scores[from..to], 1),
                    dy: Mat::dense(&dy[s * width..(s + 1) * width], width),
                };
                let of_sequence = run(kind, &operands, &parts, 0);
                alone.iter_mut().zip(of_sequence).for_each(|(all, own)| all.extend(own));
                from = to;
            }
            prop_assert_eq!(run(kind, &operands, &parts, 0), alone);
        }
    }
}

#[test]
fn the_gradients_of_the_definition_are_those_of_finite_differences() {
    let (width, bounds) = (3, [0, 3, 4, 8]);
    let [x, scores, dy] = [24, 8, 9].map(|len| uniform(len as u64, len).1);
    for kind in KINDS {
        let loss = |x: &[f64], scores: &[f64]| {
            let shares = reference::shares(kind, scores, &bounds);
            dot(&dy, &reference::forward(x, &shares, &bounds, width))
        };
        let shares = reference::shares(kind, &scores, &bounds);
        let [dx, dscores] = reference::backward(&dy, &x, &shares, &bounds, width);
        assert_gradient(&dx, &x, |x| loss(x, &scores));
        if kind == Pooling::Attention {
            assert_gradient(&dscores, &scores, |scores| loss(&x, scores));
        }
    }
}

#[test]
fn a_long_sequence_is_as_exact_and_has_the_same_bits_on_any_number_of_threads() {
    let (rows, width) = (1_000_003, 3);
    // Around 1, so that sums grow and do not cancel.
    let x: Vec<f32> = uniform(1, rows * width)
        .0
        .iter()
        .map(|v| 1.0 + 0.25 * v)
        .collect();
    let (scores, dy) = (uniform(2, rows).0, uniform(3, width).0);
    let exact = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (bounds, parts) = ([0, rows], Parts::new(None, [1, rows], Device::Cpu).unwrap());
    let operands = Rows {
        x: Mat::dense(&x, width),
        scores: Mat::dense(&scores, 1),
        dy: Mat::dense(&dy, width),
    };
    for kind in [Pooling::Mean, Pooling::Attention] {
        assert_same_bits_on_any_number_of_threads(|| run(kind, &operands, &parts, 0).concat());
        let got = run(kind, &operands, &parts, 0);
        let truth = reference::shares(kind, &exact(&scores), &bounds);
        let exact_y = reference::forward(&exact(&x), &truth, &bounds, width);
        let gradients = reference::backward(&exact(&dy), &exact(&x), &truth, &bounds, width);
        let [exact_dx, exact_dscores] = gradients;
        // The plain evaluation adds a million terms one behind the other, and would allow too much. Here the roundings
        // of as many sums as there are parts meet, which go either way.
        let allowed = f64::from(f32::EPSILON) * (rows as f64 / 128.0).sqrt();
        let truths = [exact_y, exact_dx, exact_dscores];
        for (name, (got, exact)) in ["y", "dx", "dscores"].iter().zip(got.iter().zip(&truths)) {
            let largest = exact.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
            for (got, exact) in got.iter().zip(exact) {
                let error = (f64::from(*got) - exact).abs() / largest;
                assert!(error <= allowed, "{name} of {kind:?}: {error:e}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let zeros = |shape: &[usize], dtype| {
        let shape = Shape::new(shape);
        Var::from(Tensor::zeros(shape, dtype, Device::Cpu).unwrap())
    };
    let of = |kind, x: &[usize], scores: Option<&[usize]>, starts: Option<&Starts>| {
        let scores = scores.map(|shape| zeros(shape, DType::F32));
        let options = PoolingOptions { kind, starts };
        pooling(&zeros(x, DType::F32), scores.as_ref(), &options).map(|y| y.shape())
    };
    let (mean, attention) = (Pooling::Mean, Pooling::Attention);
    let two = packed([3, 4], |row| row == 6).0;
    for (kind, scores) in [
        (Pooling::Last, None),
        (mean, None),
        (attention, Some(&[3, 4, 1][..])),
    ] {
        assert_eq!(of(kind, &[3, 4, 5], scores, None).unwrap()[..], [3, 5]);
        assert_eq!(
            of(kind, &[3, 4, 5], scores, Some(&two)).unwrap()[..],
            [4, 5]
        );
    }
    assert_eq!(of(mean, &[0, 4, 5], None, None).unwrap()[..], [0, 5]);
    let error = of(mean, &[3, 0, 5], None, None).unwrap_err().to_string();
    assert_eq!(
        error,
        "pooling: the rows of a sequence is 0, expected at least 1"
    );
    let error = of(mean, &[3, 4, 0], None, None).unwrap_err();
    assert!(matches!(error, Error::Range { .. }), "{error}");
    let error = of(attention, &[3, 4, 5], None, None).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    let error = of(mean, &[3, 4, 5], Some(&[3, 4, 1]), None).unwrap_err();
    assert!(matches!(error, Error::Surplus { .. }), "{error}");
    for (x, scores) in [
        (&[3, 4][..], &[3, 4, 1][..]),
        (&[3, 4, 5], &[3, 4]),
        (&[3, 4, 5], &[3, 4, 2]),
    ] {
        let error = of(attention, x, Some(scores), None).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let error = of(mean, &[3, 5, 5], None, Some(&two)).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let narrow = zeros(&[3, 4, 5], DType::BF16);
    let options = PoolingOptions {
        kind: mean,
        starts: None,
    };
    let refused = pooling(&narrow, None, &options);
    assert!(matches!(refused, Err(Error::DType { .. })));
}
