//! The kernels against the definition, and the parities: whole, in chunks, step by step, packed, reversed.

use proptest::prelude::*;
use serpens_core::{DType, Device, Mat, MatMut, Tensor};

use super::reference;
use crate::causal_conv1d::{ConvDims, ConvOperands, cpu, step};
use crate::shared::tests::dense::{
    Wide, assert_close, assert_gradient, assert_near, assert_same_bits_on_any_number_of_threads,
    distance, dot, largest_of_neighbours, uniform,
};

/// Values as one row.
fn row(values: &[f32]) -> Mat<'_> {
    Mat::new(values, 1, values.len(), values.len(), 0)
}

fn row_mut(values: &mut [f32]) -> MatMut<'_> {
    let len = values.len();
    MatMut::new(values, 1, len, len, 0)
}

/// A problem in f32 with its twin in f64.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    length: usize,
    channels: usize,
    width: usize,
    weight: (Vec<f32>, Vec<f64>),
    bias: Option<(Vec<f32>, Vec<f64>)>,
    state: Option<(Vec<f32>, Vec<f64>)>,
    starts: Option<Vec<bool>>,
    reverse: bool,
    silu: bool,
    x: (Vec<f32>, Vec<f64>),
    margin: usize,
}

impl Case {
    /// Starts lie about `1 / every` apart; 0 for none.
    fn new(
        batch: usize,
        length: usize,
        channels: usize,
        width: usize,
        every: usize,
        seed: u64,
    ) -> Self {
        let rows = batch * length;
        let starts = uniform(seed ^ 5, rows)
            .0
            .into_iter()
            .map(|v| ((v.abs() * 1e4) as usize).is_multiple_of(every.max(1)));
        Self {
            batch,
            length,
            channels,
            width,
            weight: uniform(seed ^ 1, channels * width),
            bias: (seed & 1 == 0).then(|| uniform(seed ^ 2, channels)),
            state: (seed & 2 == 0).then(|| uniform(seed ^ 3, batch * (width - 1) * channels)),
            starts: (every > 0).then(|| starts.collect()),
            reverse: seed & 4 == 0,
            silu: seed & 8 == 0,
            x: uniform(seed ^ 4, rows * channels),
            margin: (seed >> 4) as usize % 3,
        }
    }

    fn rows(&self) -> usize {
        self.batch * self.length
    }

    fn state_len(&self) -> usize {
        self.batch * (self.width - 1) * self.channels
    }

    fn conv<'a>(&'a self, x: Mat<'a>) -> cpu::Conv<'a> {
        let dims = ConvDims {
            batch: self.batch,
            length: self.length,
            channels: self.channels,
            width: self.width,
        };
        let row = |(values, _): &'a (Vec<f32>, Vec<f64>)| row(values);
        cpu::Conv {
            dims,
            operands: ConvOperands {
                x,
                weight: row(&self.weight),
                bias: self.bias.as_ref().map(row),
                initial_state: self.state.as_ref().map(row),
            },
            starts: self.starts.as_deref(),
            reverse: self.reverse,
            silu: self.silu,
        }
    }

    fn plain(&self) -> reference::Conv<'_, f32> {
        let (bias, state) = (self.bias.as_ref(), self.state.as_ref());
        self.reference(
            &self.weight.0,
            bias.map(|b| &b.0[..]),
            state.map(|s| &s.0[..]),
        )
    }

    fn exact(&self) -> reference::Conv<'_, f64> {
        let (bias, state) = (self.bias.as_ref(), self.state.as_ref());
        self.reference(
            &self.weight.1,
            bias.map(|b| &b.1[..]),
            state.map(|s| &s.1[..]),
        )
    }

    fn reference<'a, R>(
        &'a self,
        weight: &'a [R],
        bias: Option<&'a [R]>,
        initial_state: Option<&'a [R]>,
    ) -> reference::Conv<'a, R> {
        reference::Conv {
            batch: self.batch,
            length: self.length,
            channels: self.channels,
            width: self.width,
            weight,
            bias,
            initial_state,
            starts: self.starts.as_deref(),
            reverse: self.reverse,
            silu: self.silu,
        }
    }

    /// (y, final state) of the kernel.
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let x = Wide::new(&self.x.0, self.rows(), self.channels, self.margin);
        let mut y = Wide::blank(self.rows(), self.channels, self.margin);
        let mut state = vec![f32::NAN; self.state_len()];
        cpu::forward(&self.conv(x.mat()), y.mat_mut(), Some(&mut state));
        (y.dense(), state)
    }

    /// (y, state behind it) of the kernel for a single position, between whose slots nothing else may be written.
    fn step(&self) -> (Vec<f32>, Vec<f32>) {
        let history = (self.width - 1) * self.channels;
        let x = Wide::new(&self.x.0, self.batch, self.channels, self.margin);
        let mut y = Wide::blank(self.batch, self.channels, self.margin);
        let state = &self.state.as_ref().expect("a step has a state").0;
        let mut state = Wide::new(state, self.batch, history, 1);
        let weight = Mat::new(&self.weight.0, self.channels, self.width, self.width, 0);
        let bias = self.bias.as_ref().map(|bias| &bias.0[..]);
        cpu::step(
            x.mat(),
            weight,
            bias,
            self.silu,
            state.mat_mut(),
            y.mat_mut(),
        );
        (y.dense(), state.dense())
    }

    /// The gradients of the kernel; where it accumulates, onto ones.
    fn backward(
        &self,
        dy: &[f32],
        dstate: Option<&[f32]>,
        accumulate: bool,
    ) -> reference::Gradients<f32> {
        let x = Wide::new(&self.x.0, self.rows(), self.channels, self.margin);
        let dy = Wide::new(dy, self.rows(), self.channels, 1);
        let mut dx = Wide::blank(self.rows(), self.channels, self.margin);
        let before = if accumulate { 1.0 } else { f32::NAN };
        let mut dweight = vec![before; self.channels * self.width];
        let mut dbias = vec![before; self.channels];
        let mut dinitial_state = vec![f32::NAN; self.state_len()];
        let grads = ConvOperands {
            x: dx.mat_mut(),
            weight: row_mut(&mut dweight),
            bias: Some(row_mut(&mut dbias)),
            initial_state: Some(row_mut(&mut dinitial_state)),
        };
        cpu::backward(&self.conv(x.mat()), dy.mat(), dstate, grads, accumulate);
        reference::Gradients {
            dx: dx.dense(),
            dweight,
            dbias,
            dinitial_state,
        }
    }

    /// This problem with weight, bias, state and inputs times `scale`.
    fn scaled(&self, scale: f64) -> Self {
        let scaled = |values: &(Vec<f32>, Vec<f64>)| {
            twin(values.1.iter().map(|v| (v * scale) as f32).collect())
        };
        Self {
            weight: scaled(&self.weight),
            bias: self.bias.as_ref().map(scaled),
            state: self.state.as_ref().map(scaled),
            x: scaled(&self.x),
            ..self.clone()
        }
    }

    /// Holds outputs and gradients to the plain evaluation's errors; of weight and bias, whose gradients are sums over
    /// time with few values, to the largest of its neighbours'.
    fn assert_agrees(&self, seed: u64) {
        let (dy, exact_dy) = uniform(seed ^ 6, self.x.0.len());
        let (dstate, exact_dstate) = uniform(seed ^ 7, self.state_len());
        let gradients = |case: &Self| {
            let plain = reference::backward(&case.plain(), &case.x.0, &dy, &dstate);
            let exact = reference::backward(&case.exact(), &case.x.1, &exact_dy, &exact_dstate);
            (plain, exact)
        };
        let sums = largest_of_neighbours(|scale| {
            let (plain, exact) = gradients(&self.scaled(scale));
            let dweight = distance(&plain.dweight, &exact.dweight);
            [dweight, distance(&plain.dbias, &exact.dbias)]
        });
        let (y, state) = self.forward();
        let (plain_y, carried) = reference::forward(&self.plain(), &self.x.0);
        let (exact_y, _) = reference::forward(&self.exact(), &self.x.1);
        assert_close(&y, &plain_y, &exact_y);
        assert_eq!(state, carried, "final state");
        let grads = self.backward(&dy, Some(&dstate), false);
        let (plain, exact) = gradients(self);
        assert_close(&grads.dx, &plain.dx, &exact.dx);
        let (of_plain, of_exact) = (&plain.dinitial_state, &exact.dinitial_state);
        assert_close(&grads.dinitial_state, of_plain, of_exact);
        assert_near(&grads.dweight, sums[0], &exact.dweight);
        assert_near(&grads.dbias, sums[1], &exact.dbias);
    }

    /// The positions `from..to` of every row, as a problem of their own.
    fn part(&self, from: usize, to: usize, state: Option<Vec<f32>>) -> Self {
        let rows = |values: &[f32]| {
            let row = self.length * self.channels;
            let parts = values
                .chunks_exact(row.max(1))
                .map(|v| &v[from * self.channels..to * self.channels]);
            parts.collect::<Vec<_>>().concat()
        };
        let starts = self.starts.as_ref().map(|starts| {
            starts
                .chunks_exact(self.length)
                .flat_map(|s| s[from..to].to_vec())
                .collect()
        });
        Self {
            length: to - from,
            x: twin(rows(&self.x.0)),
            state: state.map(twin),
            starts,
            ..self.clone()
        }
    }
}

fn twin(values: Vec<f32>) -> (Vec<f32>, Vec<f64>) {
    let exact = values.iter().map(|v| f64::from(*v)).collect();
    (values, exact)
}

/// (length, channels) with the order of the positions turned round.
fn flipped<T: Copy>(values: &[T], channels: usize) -> Vec<T> {
    values
        .chunks_exact(channels)
        .rev()
        .flatten()
        .copied()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn values_and_gradients_agree_with_the_definition(
        batch in 1usize..3, length in 1usize..40, channels in 1usize..40, width in 1usize..7, every in 0usize..9, seed: u64,
    ) {
        Case::new(batch, length, channels, width, every, seed).assert_agrees(seed);
    }

    #[test]
    fn a_sequence_in_chunks_is_the_same_sequence(
        length in 2usize..40, cut in 0.0..1.0, channels in 1usize..20, width in 1usize..7, every in 0usize..9, seed: u64,
    ) {
        let case = Case::new(1, length, channels, width, every, seed);
        let (y, state) = case.forward();
        let cut = 1 + (cut * (length - 1) as f64) as usize;
        let (early, late) = if case.reverse { ((cut, length), (0, cut)) } else { ((0, cut), (cut, length)) };
        let initial = case.state.as_ref().map(|s| s.0.clone());
        let (y_early, carried) = case.part(early.0, early.1, initial).forward();
        let (y_late, last) = case.part(late.0, late.1, Some(carried)).forward();
        let joined = if case.reverse { [y_late, y_early].concat() } else { [y_early, y_late].concat() };
        prop_assert_eq!(joined, y);
        prop_assert_eq!(last, state);
    }

    #[test]
    fn steps_with_carried_state_give_the_whole_sequence(
        batch in 1usize..4, length in 1usize..20, channels in 1usize..20, width in 1usize..7, seed: u64,
    ) {
        let case = Case { reverse: false, ..Case::new(batch, length, channels, width, 0, seed) };
        let (y, last) = case.forward();
        let mut state = case.state.as_ref().map_or(vec![0.0; case.state_len()], |s| s.0.clone());
        for t in 0..length {
            let (out, carried) = case.part(t, t + 1, Some(state)).forward();
            state = carried;
            for (b, out) in out.chunks_exact(channels).enumerate() {
                let at = (b * length + t) * channels;
                prop_assert_eq!(out, &y[at..at + channels]);
            }
        }
        prop_assert_eq!(state, last);
    }

    #[test]
    fn a_step_has_the_bits_of_the_convolution_at_every_position(
        batch in 1usize..20, length in 1usize..9, channels in 1usize..40, width in 1usize..7, seed: u64,
    ) {
        let case = Case { reverse: false, ..Case::new(batch, length, channels, width, 0, seed) };
        let (y, last) = case.forward();
        let mut state = case.state.as_ref().map_or(vec![0.0; case.state_len()], |s| s.0.clone());
        for t in 0..length {
            let (out, carried) = case.part(t, t + 1, Some(state)).step();
            state = carried;
            for (b, out) in out.chunks_exact(channels).enumerate() {
                let at = (b * length + t) * channels;
                prop_assert_eq!(out, &y[at..at + channels]);
            }
        }
        prop_assert_eq!(state, last);
    }

    #[test]
    fn packed_sequences_do_not_see_each_other(
        lengths in prop::collection::vec(1usize..20, 1..4), channels in 1usize..20, width in 1usize..7, seed: u64,
    ) {
        let length = lengths.iter().sum();
        let mut packed = Case::new(1, length, channels, width, 0, seed);
        let mut starts = vec![false; length];
        let mut separate = Vec::new();
        let mut from = 0;
        for len in lengths {
            starts[if packed.reverse { from + len - 1 } else { from }] = true;
            separate.extend(packed.part(from, from + len, None).forward().0);
            from += len;
        }
        packed.starts = Some(starts);
        prop_assert_eq!(packed.forward().0, separate);
    }

    #[test]
    fn the_reverse_of_the_reversed_is_the_forward_direction(
        length in 1usize..30, channels in 1usize..20, width in 1usize..7, seed: u64,
    ) {
        let forward = Case { reverse: false, ..Case::new(1, length, channels, width, 0, seed) };
        let backward = Case { reverse: true, x: twin(flipped(&forward.x.0, channels)), ..forward.clone() };
        let ((y, state), (mirrored, mirrored_state)) = (forward.forward(), backward.forward());
        prop_assert_eq!(flipped(&mirrored, channels), y);
        prop_assert_eq!(mirrored_state, state);

        let dy = uniform(seed ^ 9, length * channels).0;
        let dstate = uniform(seed ^ 8, forward.state_len()).0;
        let grads = forward.backward(&dy, Some(&dstate), false);
        let mirrored = backward.backward(&flipped(&dy, channels), Some(&dstate), false);
        prop_assert_eq!(flipped(&mirrored.dx, channels), grads.dx);
        prop_assert_eq!(mirrored.dinitial_state, grads.dinitial_state);
        prop_assert_eq!(mirrored.dweight, grads.dweight);
    }
}

#[test]
fn sequences_of_several_segments_agree_with_the_definition() {
    for (seed, width, every) in [
        (0, 4, 0),
        (1, 4, 30),
        (6, 3, 50),
        (12, 2, 0),
        (15, 80, 0),
        (4, 70, 60),
    ] {
        Case::new(2, 150, 17, width, every, seed).assert_agrees(seed);
    }
}

#[test]
fn an_empty_sequence_hands_its_state_on() {
    let case = Case {
        state: Some(uniform(1, 12)),
        ..Case::new(2, 0, 2, 4, 0, 0)
    };
    assert_eq!(case.forward(), (vec![], case.state.clone().unwrap().0));
    let dstate = uniform(2, 12).0;
    assert_eq!(
        case.backward(&[], Some(&dstate), false).dinitial_state,
        dstate
    );
}

#[test]
fn a_slot_has_the_same_bits_alone_and_beside_others_even_nan() {
    let mut case = Case {
        state: Some(uniform(3, 40 * 3 * 700)),
        ..Case::new(40, 1, 700, 4, 0, 2)
    };
    let (row, history) = (700, 3 * 700);
    for (x, state) in [(5, 5), (17, 18)] {
        case.x.0[x * row..(x + 1) * row].fill(f32::NAN);
        case.state.as_mut().unwrap().0[state * history..(state + 1) * history].fill(f32::NAN);
    }
    let (y, state) = case.step();
    for slot in [0, 4, 6, 16, 19, 39] {
        let alone = Case {
            batch: 1,
            x: twin(case.x.0[slot * row..(slot + 1) * row].to_vec()),
            state: (case.state.as_ref())
                .map(|all| twin(all.0[slot * history..(slot + 1) * history].to_vec())),
            ..case.clone()
        };
        assert_eq!(alone.step().0, y[slot * row..(slot + 1) * row]);
        assert_eq!(alone.step().1, state[slot * history..(slot + 1) * history]);
    }
    assert_same_bits_on_any_number_of_threads(|| case.step().0);
}

#[test]
fn a_step_of_operands_that_do_not_fit_is_refused() {
    let tensor = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32, Device::Cpu).unwrap();
    let refused = |x, weight, state, y| {
        let (x, weight) = (tensor(x), tensor(weight));
        let (mut state, mut y) = (tensor(state), tensor(y));
        let (state, y) = (state.view_mut().unwrap(), y.view_mut().unwrap());
        step(x.view(), weight.view(), None, true, state, y).map_err(|error| error.to_string())
    };
    assert_eq!(refused([2, 5], [5, 4], [2, 15], [2, 5]), Ok(()));
    for (x, weight, state, y, what) in [
        (
            [2, 5],
            [4, 4],
            [2, 15],
            [2, 5],
            "weight has shape (4, 4), expected (5, 4)",
        ),
        (
            [2, 5],
            [5, 4],
            [2, 20],
            [2, 5],
            "state has shape (2, 20), expected (2, 15)",
        ),
        (
            [2, 5],
            [5, 4],
            [2, 15],
            [1, 5],
            "y has shape (1, 5), expected (2, 5)",
        ),
        (
            [2, 5],
            [5, 0],
            [2, 0],
            [2, 5],
            "the width is 0, expected at least 1",
        ),
    ] {
        let error = refused(x, weight, state, y).unwrap_err();
        assert_eq!(error, format!("causal_conv1d: {what}"));
    }
}

#[test]
fn parameter_gradients_are_added_where_asked() {
    let case = Case::new(1, 20, 5, 4, 0, 3);
    let dy = uniform(1, 100).0;
    let (fresh, added) = (
        case.backward(&dy, None, false),
        case.backward(&dy, None, true),
    );
    let plus_one = |v: &Vec<f32>| v.iter().map(|v| v + 1.0).collect::<Vec<_>>();
    assert_eq!(plus_one(&fresh.dweight), added.dweight);
    assert_eq!(plus_one(&fresh.dbias), added.dbias);
}

#[test]
fn the_gradients_of_the_definition_are_those_of_finite_differences() {
    for seed in [0, 4, 8, 16] {
        let case = Case::new(2, 5, 2, 3, 4, seed);
        let conv = case.exact();
        let (dy, dstate) = (uniform(seed + 1, 20).1, uniform(seed + 2, 8).1);
        let grads = reference::backward(&conv, &case.x.1, &dy, &dstate);
        let loss = |conv: &reference::Conv<f64>, x: &[f64]| {
            let (y, state) = reference::forward(conv, x);
            dot(&dy, &y) + dot(&dstate, &state)
        };
        let at = conv.clone();
        assert_gradient(&grads.dx, &case.x.1, |x| loss(&conv, x));
        assert_gradient(&grads.dweight, at.weight, |weight| {
            loss(
                &reference::Conv {
                    weight,
                    ..at.clone()
                },
                &case.x.1,
            )
        });
        assert_gradient(&grads.dbias, at.bias.unwrap(), |bias| {
            loss(
                &reference::Conv {
                    bias: Some(bias),
                    ..at.clone()
                },
                &case.x.1,
            )
        });
        assert_gradient(&grads.dinitial_state, at.initial_state.unwrap(), |state| {
            loss(
                &reference::Conv {
                    initial_state: Some(state),
                    ..at.clone()
                },
                &case.x.1,
            )
        });
    }
}

#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let case = Case::new(3, 200, 50, 4, 40, 0);
    let (dy, dstate) = (uniform(1, 3 * 200 * 50).0, uniform(2, case.state_len()).0);
    assert_same_bits_on_any_number_of_threads(|| {
        let (y, state) = case.forward();
        let grads = case.backward(&dy, Some(&dstate), false);
        [
            y,
            state,
            grads.dx,
            grads.dweight,
            grads.dbias,
            grads.dinitial_state,
        ]
        .concat()
    });
}
