//! The kernels against the definition over shapes, chunks and packed sequences against the whole.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Gradients, ParamId, Tape, Tensor, Var};

use super::reference;
use crate::Starts;
use crate::lstm::{LstmDims, lstm};
use crate::shared::tests::dense::{assert_near, distance, largest_of_neighbours};
use crate::shared::tests::real::Real;
use crate::shared::tests::{f32s, tensor, values};

/// One problem.
#[derive(Clone, Copy, Debug)]
struct Case {
    dims: LstmDims,
    state: bool,
    packed: bool,
}

const NAMES: [&str; 7] = [
    "y",
    "the last h",
    "the last c",
    "the gates' gradient",
    "the weight's",
    "h's",
    "c's",
];

impl Case {
    /// gates, weight, h, c, and the gradients of y, the last h and the last c.
    fn operands(&self) -> [Vec<f64>; 7] {
        let LstmDims {
            batch,
            length,
            width,
        } = self.dims;
        let of = |seed, count, scale| values(seed, [count], scale, DType::F32);
        let scale = 2.0 / (width as f32).sqrt();
        [
            of(1, batch * length * 4 * width, 2.0),
            of(2, 4 * width * width, scale),
            of(3, batch * width, 1.0),
            of(4, batch * width, 1.0),
            of(5, batch * length * width, 1.0),
            of(6, batch * width, 1.0),
            of(7, batch * width, 1.0),
        ]
    }

    fn ids(&self) -> Vec<u32> {
        let count = self.dims.batch * self.dims.length;
        (0..count as u32).map(|i| i * i / 7).collect()
    }

    /// What `NAMES` says; of states only where there are some.
    fn run(&self) -> Vec<Vec<f32>> {
        let LstmDims {
            batch,
            length,
            width,
        } = self.dims;
        let [gates, weight, h, c, dy, dh, dc] = self.operands();
        let on = |shape: &[usize], values: &[f64]| {
            tensor(
                serpens_core::Shape::new(shape),
                values,
                DType::F32,
                Device::Cpu,
            )
        };
        let tape = Tape::new();
        // Beside others, as columns of a wider projection.
        let wide: Vec<f64> = gates
            .chunks_exact(4 * width)
            .flat_map(|row| [&[9.0][..], row, &[9.0, 9.0]].concat())
            .collect();
        let wide = tape.leaf(on(&[batch, length, 4 * width + 3], &wide));
        let gates = wide.columns(1..4 * width + 1).unwrap();
        let id = ParamId::fresh();
        let weight = Var::param(id, on(&[4 * width, width], &weight));
        let state = [h, c].map(|values| tape.leaf(on(&[batch, width], &values)));
        let given = state.each_ref().map(|state| self.state.then_some(state));
        let starts = Starts::from_sequence_ids(&self.ids(), batch).unwrap();
        let starts = self.packed.then_some(&starts);
        let output = lstm(&gates, &weight, given, starts).unwrap();
        let seeds = vec![
            (&output.y, on(&[batch, length, width], &dy)),
            (&output.h, on(&[batch, width], &dh)),
            (&output.c, on(&[batch, width], &dc)),
        ];
        let mut gradients = Gradients::new();
        tape.backward_from(seeds, &mut gradients).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap();
        let dgates = read(&tape.gradient(&wide).unwrap().unwrap());
        let rows = dgates.chunks_exact(4 * width + 3);
        let inside = rows
            .flat_map(|row| row[1..4 * width + 1].to_vec())
            .collect();
        let mut all: Vec<Vec<f32>> = [&output.y, &output.h, &output.c]
            .map(|var| read(var.tensor().unwrap()))
            .into();
        all.extend([inside, read(&gradients.get(id).unwrap().unwrap())]);
        if self.state {
            all.extend(state.map(|state| read(&tape.gradient(&state).unwrap().unwrap())));
        }
        all
    }

    /// The same by the definition, of operands times a factor near one.
    fn reference<R: Real>(&self, factor: f64) -> Vec<Vec<R>> {
        let number = |v: &f64| R::from((v * factor) as f32);
        let [gates, weight, h, c, dy, dh, dc] = self
            .operands()
            .map(|all| all.iter().map(number).collect::<Vec<R>>());
        let ids = self.ids();
        let starts: Vec<bool> = (0..ids.len())
            .map(|i| i % self.dims.length == 0 || ids[i] != ids[i - 1])
            .collect();
        let lstm = reference::Lstm {
            dims: self.dims,
            gates: &gates,
            weight: &weight,
            state: self.state.then_some([&h, &c]),
            starts: self.packed.then_some(&starts[..]),
        };
        let found = lstm.forward();
        let [last_h, last_c] = lstm.last(&found);
        let [.., y] = found;
        let mut all = vec![y, last_h, last_c];
        all.extend(lstm.backward(&dy, &dh, &dc));
        all.truncate(if self.state { 7 } else { 5 });
        all
    }

    fn assert_agrees(&self) {
        let (got, truth) = (self.run(), self.reference::<f64>(1.0));
        let plain_errors: [f64; 7] = largest_of_neighbours(|factor| {
            let (truth, plain) = (self.reference::<f64>(factor), self.reference::<f32>(factor));
            std::array::from_fn(|i| match truth.get(i) {
                Some(truth) => distance(&plain[i], truth),
                None => 0.0,
            })
        });
        assert_eq!(got.len(), truth.len());
        for (i, got) in got.iter().enumerate() {
            println!("{} of {self:?}", NAMES[i]);
            assert_near(got, plain_errors[i], &truth[i]);
        }
    }
}

fn dims() -> impl Strategy<Value = LstmDims> {
    let widths = prop_oneof![1_usize..20, 30_usize..70];
    (1_usize..6, 1_usize..12, widths).prop_map(|(batch, length, width)| LstmDims {
        batch,
        length,
        width,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn values_and_gradients_agree_with_the_definition(dims in dims(), state: bool) {
        Case { dims, state, packed: false }.assert_agrees();
    }

    #[test]
    fn packed_sequences_begin_from_zeros(dims in dims()) {
        Case { dims, state: false, packed: true }.assert_agrees();
    }
}

/// y and the last state of positions of one row, whose sequences `starts` tells of.
fn read(
    gates: &[f64],
    weight: &Tensor,
    state: Option<[&Var; 2]>,
    starts: Option<&Starts>,
) -> (Vec<f32>, [Var; 2]) {
    let columns = weight.shape()[0];
    let gates = tensor(
        [1, gates.len() / columns, columns],
        gates,
        DType::F32,
        Device::Cpu,
    );
    let state = match state {
        Some(state) => state.map(Some),
        None => [None; 2],
    };
    let output = lstm(&gates.into(), &weight.clone().into(), state, starts).unwrap();
    let y = output.y.tensor().unwrap().to_vec::<f32>().unwrap();
    (y, [output.h, output.c])
}

#[test]
fn chunks_are_the_whole_and_packed_sequences_as_when_alone() {
    let (length, width) = (40, 23);
    let gates = values(1, [length, 4 * width], 2.0, DType::F32);
    let weight = values(2, [4 * width, width], 0.4, DType::F32);
    let weight = tensor([4 * width, width], &weight, DType::F32, Device::Cpu);
    let rows = |from: usize, to: usize| &gates[from * 4 * width..to * 4 * width];
    let whole = read(rows(0, length), &weight, None, None).0;
    let first = read(rows(0, 17), &weight, None, None);
    let [h, c] = &first.1;
    let second = read(rows(17, length), &weight, Some([h, c]), None);
    assert_eq!(whole, [first.0.clone(), second.0].concat());

    let starts = Starts::from_lengths(&[17, 3, 20]);
    let packed = read(rows(0, length), &weight, None, Some(&starts)).0;
    let alone =
        [(0, 17), (17, 20), (20, 40)].map(|(from, to)| read(rows(from, to), &weight, None, None).0);
    assert_eq!(packed, alone.concat());

    let chunks = [(0, 18), (18, 40)].map(|(from, to)| starts.chunk(from..to).unwrap());
    let first = read(rows(0, 18), &weight, None, Some(&chunks[0]));
    let [h, c] = &first.1;
    let second = read(rows(18, 40), &weight, Some([h, c]), Some(&chunks[1]));
    assert_eq!(packed, [first.0.clone(), second.0].concat());
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let dims = LstmDims {
        batch: 5,
        length: 20,
        width: 100,
    };
    let case = Case {
        dims,
        state: true,
        packed: false,
    };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| case.run())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn no_positions_leave_the_state_as_it_is() {
    let case = Case {
        dims: LstmDims {
            batch: 2,
            length: 0,
            width: 5,
        },
        state: true,
        packed: false,
    };
    let [_, _, h, c, _, dh, dc] = case.operands().map(|values| f32s(&values));
    let got = case.run();
    assert_eq!(got[1..3], [h, c]);
    assert_eq!(got[5..7], [dh, dc]);
    assert!(got[4].iter().all(|&gradient| gradient == 0.0));
}

#[test]
fn what_does_not_fit_is_said() {
    let zeros = |shape: &[usize]| {
        let shape = serpens_core::Shape::new(shape);
        Var::from(Tensor::zeros(shape, DType::F32, Device::Cpu).unwrap())
    };
    let error = |gates: &[usize], weight: &[usize], state: &[usize], starts| {
        let state = zeros(state);
        let state = [Some(&state), None];
        lstm(&zeros(gates), &zeros(weight), state, starts).err()
    };
    assert!(error(&[2, 3, 8], &[8, 2], &[2, 2], None).is_none());
    let refused = error(&[2, 3, 9], &[8, 2], &[2, 2], None);
    assert!(matches!(refused, Some(Error::Multiple { .. })));
    let refused = error(&[2, 3, 8], &[8, 3], &[2, 2], None);
    assert!(matches!(refused, Some(Error::Shape { .. })));
    let refused = error(&[2, 3, 8], &[8, 2], &[1, 2], None);
    assert!(matches!(refused, Some(Error::Shape { .. })));
    let starts = Starts::from_lengths(&[3]);
    let refused = error(&[1, 3, 8], &[8, 2], &[1, 2], Some(&starts));
    assert!(matches!(refused, Some(Error::Surplus { .. })));
}
