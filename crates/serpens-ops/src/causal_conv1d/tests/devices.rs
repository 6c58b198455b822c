//! Causal convolution with silu, states and packed sequences.

use std::ops::Range;

use serpens_core::{DType, Device, Gradients, ParamId, Tape, Tensor, Var};

use super::{reference, steps};
use crate::Starts;
use crate::causal_conv1d::{ConvOptions, ConvOutput, causal_conv1d};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, joined, large, positions, read, tensor, values};

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    length: usize,
    channels: usize,
    width: usize,
    margin: usize,
    bias: bool,
    state: bool,
    packed: bool,
    reverse: bool,
    silu: bool,
}

const PLAIN: Case = Case {
    batch: 2,
    length: 150,
    channels: 40,
    width: 4,
    margin: 8,
    bias: true,
    state: false,
    packed: false,
    reverse: false,
    silu: true,
};

/// Shapes that are multiples of nothing, every alignment, segments that end anywhere, filters longer than the sequence.
fn problems() -> Vec<Case> {
    let states = |case: Case| Case {
        state: true,
        packed: true,
        ..case
    };
    let mut all = Vec::new();
    all.push(Case {
        reverse: true,
        ..states(PLAIN)
    });
    all.push(Case {
        silu: false,
        bias: false,
        channels: 33,
        margin: 3,
        ..PLAIN
    });
    // Vectors of four and of two channels.
    for (channels, margin) in [(40, 8), (42, 2)] {
        let vectors = Case {
            channels,
            margin,
            ..PLAIN
        };
        let linear = Case {
            silu: false,
            ..vectors
        };
        all.extend([vectors, states(vectors), linear]);
    }
    let wide = Case {
        length: 45,
        channels: 10,
        width: 40,
        ..PLAIN
    };
    let linear = Case {
        silu: false,
        ..wide
    };
    all.extend([wide, states(wide), linear]);
    for (length, channels, width) in [
        (1, 70, 4),
        (37, 30, 1),
        (61, 21, 2),
        (50, 132, 3),
        (19, 14, 7),
        (33, 9, 20),
        (5, 17, 12),
    ] {
        let odd = Case {
            batch: 3,
            length,
            channels,
            width,
            margin: width % 3,
            ..states(PLAIN)
        };
        all.push(odd);
        all.push(Case {
            reverse: true,
            packed: false,
            ..odd
        });
    }
    all
}

/// y, the final state and the gradients of x, weight, bias and initial state.
type Outcome = [Vec<f64>; 6];

impl Case {
    fn rows(&self) -> usize {
        self.batch * self.length
    }

    fn state_shape(&self) -> [usize; 3] {
        [self.batch, self.width - 1, self.channels]
    }

    /// Of rows that are a position longer on both sides.
    fn sequence_ids(&self) -> Vec<u32> {
        let positions = self.batch * (self.length + 2);
        (0..positions).map(|i| (i * i / 90) as u32).collect()
    }

    fn starts(&self) -> Option<Starts> {
        let starts = Starts::from_sequence_ids(&self.sequence_ids(), self.batch);
        let inner = |starts: Starts| starts.chunk(1..self.length + 1).unwrap();
        self.packed.then(|| inner(starts.unwrap()))
    }

    /// x, weight, bias, initial state, dy and the gradient of the final state.
    fn operands(&self, dtype: DType) -> [Vec<f64>; 6] {
        [
            values(1, [self.rows(), self.channels], 2.0, dtype),
            values(2, [self.channels, self.width], 1.0, DType::F32),
            values(3, [self.channels], 1.0, DType::F32),
            values(4, self.state_shape(), 2.0, DType::F32),
            values(5, [self.rows(), self.channels], 1.0, dtype),
            values(6, self.state_shape(), 1.0, DType::F32),
        ]
    }

    fn run(&self, device: Device, dtype: DType) -> Outcome {
        let whole = 0..self.length;
        self.run_in(&[whole], device, dtype)
    }

    /// The rows in these chunks, in the order in which time runs.
    fn run_in(&self, chunks: &[Range<usize>], device: Device, dtype: DType) -> Outcome {
        let [x, weight, bias, state, dy, dstate] = self.operands(dtype);
        let f32s_on = |shape: &[usize], values: &[f64]| {
            let shape = serpens_core::Shape::new(shape);
            tensor(shape, values, DType::F32, device)
        };
        let tape = Tape::new();
        let ids = [ParamId::fresh(), ParamId::fresh()];
        let weight = f32s_on(&[self.channels, 1, self.width], &weight);
        let weight = Var::param(ids[0], weight);
        let bias = Var::param(ids[1], f32s_on(&[self.channels], &bias));
        let bias = self.bias.then_some(&bias);
        let state = tape.leaf(f32s_on(&self.state_shape(), &state));
        let mut carried = self.state.then(|| state.clone());
        let (mut outputs, mut leaves, mut seeds) = (vec![], vec![], vec![]);
        for chunk in chunks {
            let own = |block: &[f64]| positions(block, [self.batch, self.length], chunk);
            let wide_x = tape.leaf(self.around(&own(&x), dtype, device));
            let columns = wide_x.columns(self.margin..self.margin + self.channels);
            let starts = self.starts().map(|all| all.chunk(chunk.clone()).unwrap());
            let options = ConvOptions {
                silu: self.silu,
                starts: starts.as_ref(),
                reverse: self.reverse,
            };
            let output =
                causal_conv1d(&columns.unwrap(), &weight, bias, carried.as_ref(), &options);
            let ConvOutput { y, final_state } = output.unwrap();
            seeds.push((y.clone(), tensor(y.shape(), &own(&dy), dtype, device)));
            outputs.push((chunk.clone(), read(y.tensor().unwrap())));
            leaves.push((chunk.clone(), wide_x));
            carried = Some(final_state);
        }
        let last = carried.unwrap();
        let dlast = f32s_on(&self.state_shape(), &dstate);
        let mut gradients = Gradients::new();
        let seeds = seeds.iter().map(|(y, dy)| (y, dy.clone()));
        let seeds = seeds.chain([(&last, dlast)]).collect();
        tape.backward_from(seeds, &mut gradients).unwrap();
        let inputs = leaves.into_iter().map(|(chunk, leaf)| {
            let dx = tape.gradient(&leaf).unwrap().unwrap();
            assert_eq!(dx.dtype(), dtype);
            (chunk, self.inner(&read(&dx)))
        });
        let of = |gradient: Option<Tensor>| gradient.map_or(vec![], |tensor| read(&tensor));
        [
            joined(outputs, self.batch),
            read(last.tensor().unwrap()),
            joined(inputs.collect(), self.batch),
            of(gradients.get(ids[0]).unwrap()),
            of(gradients.get(ids[1]).unwrap()),
            of(tape.gradient(&state).unwrap()),
        ]
    }

    /// Values of x inside the wider rows.
    fn around(&self, x: &[f64], dtype: DType, device: Device) -> Tensor {
        let wide = self.channels + 2 * self.margin;
        let length = x.len() / self.channels / self.batch;
        let around: Vec<f64> = (0..self.batch * length * wide)
            .map(|i| match (i % wide).checked_sub(self.margin) {
                Some(e) if e < self.channels => x[i / wide * self.channels + e],
                _ => 100.0,
            })
            .collect();
        tensor([self.batch, length, wide], &around, dtype, device)
    }

    /// The columns of x; those beside them must be zero.
    fn inner(&self, wide: &[f64]) -> Vec<f64> {
        let rows = wide.chunks_exact(self.channels + 2 * self.margin);
        rows.flat_map(|row| {
            let (left, row) = row.split_at(self.margin);
            let (row, right) = row.split_at(self.channels);
            assert!(left.iter().chain(right).all(|&v| v == 0.0));
            row.to_vec()
        })
        .collect()
    }

    fn reference<R: Real>(&self, dtype: DType) -> [Vec<R>; 6] {
        let [x, weight, bias, state, dy, dstate] = self
            .operands(dtype)
            .map(|v| v.iter().map(|&v| R::from(v as f32)).collect::<Vec<R>>());
        // A sequence starts where the position before it, as time runs, has another id.
        let ids = self.sequence_ids();
        let starts: Vec<bool> = (0..self.rows())
            .map(|i| i / self.length * (self.length + 2) + 1 + i % self.length)
            .map(|i| ids[i] != ids[if self.reverse { i + 1 } else { i - 1 }])
            .collect();
        let conv = reference::Conv {
            batch: self.batch,
            length: self.length,
            channels: self.channels,
            width: self.width,
            weight: &weight,
            bias: self.bias.then_some(&bias[..]),
            initial_state: self.state.then_some(&state[..]),
            starts: self.packed.then_some(&starts[..]),
            reverse: self.reverse,
            silu: self.silu,
        };
        let (y, last) = reference::forward(&conv, &x);
        let gradients = reference::backward(&conv, &x, &dy, &dstate);
        let given = |asked: bool, values: Vec<R>| if asked { values } else { vec![] };
        [
            y,
            last,
            gradients.dx,
            gradients.dweight,
            given(self.bias, gradients.dbias),
            given(self.state, gradients.dinitial_state),
        ]
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems() {
        case.run(device, dtype);
    }
    steps::run_all(device, dtype);
}

fn assert_agrees(case: &Case, chunks: &[Range<usize>], device: Device, dtype: DType) {
    let got = case.run_in(chunks, device, dtype);
    let truth = case.reference::<f64>(dtype);
    let plain = case.reference::<f32>(dtype);
    let names = [
        "y",
        "the final state",
        "dx",
        "dw",
        "db",
        "the state's gradient",
    ];
    for (i, name) in names.iter().enumerate() {
        let what = format!("{name} of {case:?} in {chunks:?} on {device} in {dtype}");
        let dtype = if [0, 2].contains(&i) {
            dtype
        } else {
            DType::F32
        };
        assert_near(&what, &got[i], &truth[i], &plain[i], dtype);
    }
}

#[test]
fn values_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let whole = 0..case.length;
            assert_agrees(&case, &[whole], device, dtype);
        }
    }
}

#[test]
fn packed_rows_in_chunks_that_carry_the_state_are_the_same_rows_on_every_device() {
    for (device, dtype) in cases() {
        for (reverse, cut) in [1, 2, 33, 64, 149]
            .into_iter()
            .flat_map(|cut| [(false, cut), (true, cut)])
        {
            let case = Case {
                state: true,
                packed: true,
                reverse,
                ..PLAIN
            };
            let mut chunks = [0..cut, cut..case.length];
            if reverse {
                chunks.reverse();
            }
            assert_agrees(&case, &chunks, device, dtype);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let (first, second) = (case.run(device, dtype), case.run(device, dtype));
            assert_eq!(first, second, "{case:?} on {device} in {dtype}");
        }
    }
}

#[test]
fn operands_of_more_than_two_to_the_31_values_are_reached_to_their_end() {
    let Some(device) = large::card() else { return };
    // The mean of four inputs of one.
    let weight = Var::from(Tensor::full([large::CHANNELS, 1, 4], 0.25_f32, device).unwrap());
    let x = large::full(1.0, large::CHANNELS, device);
    let output = causal_conv1d(&x, &weight, None, None, &ConvOptions::default()).unwrap();
    assert!(large::last_position(&output.y).iter().all(|&y| y == 1.0));
}
