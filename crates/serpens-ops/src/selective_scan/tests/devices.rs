//! The selective scan: every optional part, both directions, real and complex, sizes that are multiples of nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;
use serpens_core::{DType, Device, Gradients, Tape, Tensor, Var};

use super::leaf::Leaf;
use super::reference::{self, Scan};
use super::steps_on_devices;
use crate::selective_scan::{Dims, ScanOperands, ScanOptions, selective_scan};
use crate::shared::tests::real::Real;
use crate::shared::tests::{
    cases, f32s, joined, large, near, positions, read, round, tensor, values,
};
use crate::{Layout, Role, Starts};

/// A scan and what of it is present.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// (batch, length, channels, N, groups).
    sizes: (usize, usize, usize, usize, usize),
    complex: bool,
    gate: bool,
    /// D, the bias and the initial state.
    extras: bool,
    softplus: bool,
    held: bool,
    reverse: bool,
    packed: bool,
    /// Whether operands that may be columns of wider rows are, away from every alignment.
    columns: bool,
}

const PLAIN: Case = Case {
    sizes: (2, 77, 40, 16, 1),
    complex: false,
    gate: true,
    extras: true,
    softplus: true,
    held: false,
    reverse: false,
    packed: false,
    columns: false,
};

/// What moves and cuts rows, all at once.
const MIXED: Case = Case {
    reverse: true,
    packed: true,
    columns: true,
    ..PLAIN
};

/// Lengths around every tile, N around every split, and each option in turn.
fn all() -> Vec<Case> {
    let sizes = [
        (1, 1, 1, 1, 1),
        (3, 2, 5, 1, 1),
        (2, 31, 9, 3, 3),
        (1, 32, 64, 4, 2),
        (2, 33, 48, 7, 1),
        (1, 130, 24, 16, 1),
        (1, 257, 12, 64, 2),
        (1, 40, 6, 100, 1),
        (1, 35, 5, 256, 1),
        (300, 5, 96, 8, 1),
    ]
    .map(|sizes| Case { sizes, ..PLAIN });
    let real_and_complex = [sizes.as_slice(), &options()].map(|cases| {
        let complex = cases.iter().map(|&case| Case {
            complex: true,
            ..case
        });
        cases.iter().copied().chain(complex).collect::<Vec<_>>()
    });
    let mut all = real_and_complex.concat();
    // Enough channels for the widest blocks of a GPU; few, for so long that every buffer of theirs is used again.
    for sizes in [
        (264, 37, 64, 16, 1),
        (1, 577, 12, 16, 1),
        (2, 449, 9, 12, 1),
    ] {
        all.extend([PLAIN, MIXED].map(|base| Case { sizes, ..base }));
    }
    // Long enough for few channels that a GPU cuts them into segments of time.
    let sizes = (1, 3001, 24, 16, 1);
    all.extend([
        Case { sizes, ..PLAIN },
        Case {
            sizes: (2, 4100, 6, 7, 2),
            gate: false,
            ..PLAIN
        },
        Case { sizes, ..MIXED },
    ]);
    all.extend(held());
    all
}

/// Held inputs: each option in turn, one of each kernel and of each way through it.
fn held() -> Vec<Case> {
    let sizes = [
        (1, 1, 1, 1, 1),
        (2, 33, 48, 7, 1),
        (1, 257, 12, 64, 2),
        (1, 35, 5, 256, 1),
        (264, 37, 64, 16, 1),
        (1, 577, 12, 16, 1),
        (2, 449, 9, 12, 1),
        (1, 3001, 24, 16, 1),
    ];
    let sized = sizes
        .into_iter()
        .flat_map(|sizes| [PLAIN, MIXED].map(|base| Case { sizes, ..base }));
    let cases = options().into_iter().chain(sized);
    cases.map(|case| Case { held: true, ..case }).collect()
}

/// Each option in turn.
fn options() -> [Case; 8] {
    [
        PLAIN,
        Case {
            gate: false,
            ..PLAIN
        },
        Case {
            extras: false,
            ..PLAIN
        },
        Case {
            softplus: false,
            ..PLAIN
        },
        Case {
            reverse: true,
            ..PLAIN
        },
        Case {
            packed: true,
            ..PLAIN
        },
        MIXED,
        Case {
            columns: true,
            ..PLAIN
        },
    ]
}

impl Case {
    fn dims(&self) -> Dims {
        let (batch, length, channels, state, groups) = self.sizes;
        Dims {
            batch,
            length,
            channels,
            state,
            complex: self.complex,
            groups,
        }
    }

    /// The operands that there are.
    fn present(&self) -> ScanOperands<()> {
        let extra = self.extras.then_some(());
        ScanOperands {
            u: (),
            delta: (),
            a: (),
            a_im: self.complex.then_some(()),
            b: (),
            c: (),
            d: extra,
            z: self.gate.then_some(()),
            delta_bias: extra,
            initial_state: extra,
        }
    }

    /// With operands that are exact in `dtype` where they come in it.
    pub(super) fn scan(&self, dtype: DType) -> Scan<f64> {
        let dims = self.dims();
        let extra = |scale, shift| self.extras.then_some((scale, shift));
        let ranges = ScanOperands {
            u: (1.5, 0.0),
            delta: (1.75, 0.0),
            a: (0.95, -1.0),
            a_im: self.complex.then_some((6.0, 0.0)),
            b: (1.5, 0.0),
            c: (1.5, 0.0),
            d: extra(1.0, 0.0),
            z: self.gate.then_some((3.0, 0.0)),
            delta_bias: extra(0.25, 0.25),
            initial_state: extra(1.0, 0.0),
        };
        let seed = |role: &Role<Dims>| {
            let roles = ScanOperands::<f64>::roles().iter();
            1 + roles.take_while(|other| other.name != role.name).count() as u64
        };
        let mut operands = ranges.map(|role, (scale, shift)| -> Vec<f64> {
            let dtype = dtype_of(role, dtype);
            let values = values(seed(role), (role.shape)(&dims), scale, dtype);
            let shifted = values.iter().map(|value| round(value + shift, dtype));
            shifted.collect()
        });
        // Without softplus Δ itself must be positive, so that the state decays.
        if !self.softplus {
            operands
                .delta
                .iter_mut()
                .for_each(|value| *value = value.abs());
        }
        Scan {
            dims,
            operands,
            starts: self.packed.then(|| self.flags()),
            softplus: self.softplus,
            zero_order_hold: self.held,
            reverse: self.reverse,
        }
    }

    /// Of rows that are a position longer on both sides.
    fn sequence_ids(&self) -> Vec<u32> {
        let (batch, length, ..) = self.sizes;
        (0..batch * (length + 2))
            .map(|i| (i * i / 97 + i / 13) as u32)
            .collect()
    }

    pub(super) fn starts(&self) -> Option<Starts> {
        let (batch, length, ..) = self.sizes;
        let starts = Starts::from_sequence_ids(&self.sequence_ids(), batch);
        let inner = |starts: Starts| starts.chunk(1..length + 1).unwrap();
        self.packed.then(|| inner(starts.unwrap()))
    }

    /// The same by the definition: a sequence starts where the position before it, as time runs, has another id.
    fn flags(&self) -> Vec<bool> {
        let ((batch, length, ..), ids) = (self.sizes, self.sequence_ids());
        (0..batch * length)
            .map(|i| i / length * (length + 2) + 1 + i % length)
            .map(|i| ids[i] != ids[if self.reverse { i + 1 } else { i - 1 }])
            .collect()
    }

    pub(super) fn options<'a>(&self, starts: Option<&'a Starts>) -> ScanOptions<'a> {
        ScanOptions {
            groups: self.sizes.4,
            softplus: self.softplus,
            zero_order_hold: self.held,
            reverse: self.reverse,
            starts,
        }
    }

    /// The gradients of y and of the last state.
    pub(super) fn upstream(&self, dtype: DType) -> (Vec<f64>, Vec<f64>) {
        let dims = self.dims();
        let last = [dims.batch, dims.channels, dims.width()];
        (
            values(11, [dims.batch, dims.length, dims.channels], 1.0, dtype),
            values(12, last, 1.0, DType::F32),
        )
    }
}

/// The type of an operand where u is of `dtype`.
pub(super) fn dtype_of(role: &Role<Dims>, dtype: DType) -> DType {
    match role.layout {
        Layout::Rows => dtype,
        Layout::Dense => DType::F32,
    }
}

/// Names with values: y, the last state and every gradient.
type Outcome = Vec<(&'static str, Vec<f64>)>;

fn run(case: &Case, device: Device, dtype: DType) -> Outcome {
    let whole = 0..case.sizes.1;
    run_in(case, &[whole], device, dtype)
}

/// The rows in these chunks, in the order in which time runs.
fn run_in(case: &Case, chunks: &[Range<usize>], device: Device, dtype: DType) -> Outcome {
    let (scan, tape, starts) = (case.scan(dtype), Tape::new(), case.starts());
    let (dims, (dy, dlast)) = (scan.dims, case.upstream(dtype));
    let mut params = BTreeMap::new();
    let (mut all_leaves, mut ys, mut state) = (vec![], vec![], None);
    for chunk in chunks {
        let own = |block: &[f64]| positions(block, [dims.batch, dims.length], chunk);
        let length = chunk.len();
        let leaves = scan.operands.as_ref().map(|role, values| {
            let shape = (role.shape)(&Dims { length, ..dims });
            let param = || Leaf::param(shape, values, device);
            match role.layout {
                Layout::Rows => Leaf::new(&tape, shape, &own(values), case.columns, device, dtype),
                Layout::Dense => params.entry(role.name).or_insert_with(param).clone(),
            }
        });
        let starts = starts.as_ref().map(|all| all.chunk(chunk.clone()).unwrap());
        let mut operands = leaves.as_ref().map(|_, leaf| &leaf.operand);
        operands.initial_state = state.as_ref().or(operands.initial_state);
        let output = selective_scan(&operands, &case.options(starts.as_ref())).unwrap();
        let dy = tensor(output.y.shape(), &own(&dy), dtype, device);
        ys.push((chunk.clone(), output.y, dy));
        state = Some(output.last_state);
        all_leaves.push((chunk.clone(), leaves));
    }
    let last = state.unwrap();
    let dlast = tensor(last.shape(), &dlast, DType::F32, device);
    let upstream = ys.iter().map(|(_, y, dy)| (y, dy.clone()));
    let upstream = upstream.chain([(&last, dlast)]).collect();
    let mut gradients = Gradients::new();
    tape.backward_from(upstream, &mut gradients).unwrap();
    let joined = |blocks| joined(blocks, dims.batch);
    let of_y = |(chunk, y, _): (Range<usize>, Var, Tensor)| (chunk, read(y.tensor().unwrap()));
    let y = joined(ys.iter().cloned().map(of_y).collect());
    let mut outcome = vec![("y", y), ("last", read(last.tensor().unwrap()))];
    for (i, (role, _)) in all_leaves[0].1.iter().enumerate() {
        let mut of = |(chunk, leaves): &(Range<usize>, ScanOperands<Leaf>)| {
            let leaf = leaves.iter().nth(i).unwrap().1;
            let (found, gradient) = leaf.gradient(&tape, &mut gradients);
            assert_eq!(found, dtype_of(role, dtype));
            (chunk.clone(), gradient)
        };
        let gradient = match role.layout {
            Layout::Rows => joined(all_leaves.iter().map(of).collect()),
            Layout::Dense => of(&all_leaves[0]).1,
        };
        outcome.push((role.name, gradient));
    }
    outcome
}

/// The sizes of models besides those of [`all`], forward and back, for the programs that they ask for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    steps_on_devices::run_all(device, dtype);
    let zeros = |shape, dtype| Tensor::zeros(shape, dtype, device).unwrap();
    // A large complex state takes the compiler up to a minute, and no model has one.
    let cases = all().into_iter().chain(of_models());
    for case in cases.filter(|case| !case.complex || case.sizes.3 <= 16) {
        let (dims, tape, starts) = (case.dims(), Tape::new(), case.starts());
        let leaves = case.present().map(|role, ()| {
            let (shape, dtype) = ((role.shape)(&dims), dtype_of(role, dtype));
            if !case.columns || role.layout == Layout::Dense {
                return tape.leaf(zeros(shape, dtype));
            }
            let whole = tape.leaf(zeros(shape.with_cols(shape.cols() + 3), dtype));
            whole.columns(1..shape.cols() + 1).unwrap()
        });
        let output = selective_scan(&leaves.as_ref(), &case.options(starts.as_ref())).unwrap();
        let dy = zeros(output.y.shape(), dtype);
        let dlast = zeros(output.last_state.shape(), DType::F32);
        let upstream = vec![(&output.y, dy), (&output.last_state, dlast)];
        tape.backward_from(upstream, &mut Gradients::new()).unwrap();
    }
}

/// One of each kernel, and of each way through it.
pub(super) fn small() -> Vec<Case> {
    let sized = |sizes| Case { sizes, ..PLAIN };
    let large = (1, 257, 12, 64, 2);
    let mut all = vec![
        PLAIN,
        MIXED,
        sized(large),
        // Few channels whose buffers are used again; wide blocks; segments of time.
        sized((1, 577, 12, 16, 1)),
        sized((2, 449, 9, 12, 1)),
        sized((264, 37, 64, 16, 1)),
        sized((1, 3001, 24, 16, 1)),
    ];
    let complex = [PLAIN, MIXED, sized(large)].map(|case| Case {
        complex: true,
        ..case
    });
    all.extend(complex);
    for sizes in [(2, 449, 9, 12, 1), (1, 3001, 24, 16, 1)] {
        for held in [false, true] {
            all.push(Case {
                sizes,
                held,
                ..MIXED
            });
        }
    }
    all
}

/// These, with values.
pub(crate) fn run_small(device: Device, dtype: DType) {
    for case in small() {
        run(&case, device, dtype);
    }
    steps_on_devices::run_all(device, dtype);
}

/// What models ask for: rows that fill a card, few channels, long sequences, large states.
fn of_models() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |sizes, complex, packed| {
        all.push(Case {
            sizes,
            complex,
            packed,
            ..PLAIN
        });
    };
    for channels in [1024, 1536, 12_288, 32_768] {
        add((1, 2048, channels, 16, 1), false, false);
    }
    for (channels, packed) in [(1536, false), (1536, true), (4096, false), (4096, true)] {
        add((8, 2048, channels, 16, 1), false, packed);
    }
    add((1, 2048, 12_288, 16, 1), false, true);
    add((1, 2048, 1024, 16, 1), false, true);
    for packed in [false, true] {
        add((1, 131_072, 1024, 16, 1), false, packed);
    }
    for state in [1, 3, 64, 256] {
        add((1, 2048, 12_288, state, 1), false, false);
    }
    for state in [1, 16] {
        add((1, 2048, 1024, state, 1), true, false);
    }
    // Away from every alignment.
    for (channels, state, packed) in [
        (1024, 9, false),
        (1536, 7, false),
        (1536, 64, false),
        (1536, 256, false),
        (12_288, 3, false),
        (12_288, 64, false),
        (12_288, 256, false),
        (12_288, 256, true),
    ] {
        all.push(Case {
            sizes: (1, 2048, channels, state, 1),
            packed,
            columns: true,
            ..PLAIN
        });
    }
    all
}

/// What [`run`] should give, by the definition.
fn defined<T: Real>(scan: &Scan<T>, dy: &[T], dlast: &[T]) -> Vec<Vec<T>> {
    let (y, last) = reference::forward(scan);
    let grads = reference::backward(scan, dy, Some(dlast));
    let grads = grads.into_array().into_iter().flatten();
    [y, last].into_iter().chain(grads).collect()
}

/// Holds a result to the rule of the processor's kernels: twice the error of the plain evaluation in `dtype`, three
/// times for complex scans, and a unit in the last place of f32, since among few values the plain evaluation may be
/// exact by luck.
fn assert_near(what: &str, got: &[f64], truth: &[f64], plain: &[f32], dtype: DType, complex: bool) {
    let factor = if complex { 3.0 } else { 2.0 };
    let allowed = |plainly| factor * plainly + 1.2e-7;
    if let Err(error) = near(got, truth, plain, dtype, factor, allowed) {
        panic!("{what}: {error}");
    }
}

/// Checks every case on every device; on threads, since each case has kernels of its own to compile.
fn everywhere(check: impl Fn(&Case, Device, DType) + Sync) {
    let cases: Vec<(Device, DType, Case)> = cases()
        .into_iter()
        .flat_map(|(device, dtype)| all().into_iter().map(move |case| (device, dtype, case)))
        .collect();
    cases
        .par_iter()
        .for_each(|(device, dtype, case)| check(case, *device, *dtype));
}

fn assert_agrees(case: &Case, chunks: &[Range<usize>], device: Device, dtype: DType) {
    let (scan, (dy, dlast)) = (case.scan(dtype), case.upstream(dtype));
    let truths = defined(&scan, &dy, &dlast);
    let plains = defined(&scan.cast::<f32>(), &f32s(&dy), &f32s(&dlast));
    let got = run_in(case, chunks, device, dtype);
    assert_eq!((got.len(), got.len()), (truths.len(), plains.len()));
    for ((name, got), (truth, plain)) in got.iter().zip(truths.iter().zip(&plains)) {
        let what = format!("{name} on {device} in {dtype}, {case:?} in {chunks:?}");
        assert_near(&what, got, truth, plain, dtype, case.complex);
    }
}

#[test]
fn outputs_and_gradients_agree_with_the_definition_on_every_device() {
    everywhere(|case, device, dtype| {
        let whole = 0..case.sizes.1;
        assert_agrees(case, &[whole], device, dtype);
    });
}

#[test]
fn packed_rows_in_chunks_that_carry_the_state_are_the_same_rows_on_every_device() {
    let cuts = |length: usize| [1, 32, 39, length - 1];
    let mut all = Vec::new();
    for (device, dtype) in cases() {
        // Few channels, more of them, segments of time.
        for sizes in [(2, 77, 40, 16, 1), (33, 40, 64, 7, 1), (1, 3001, 24, 16, 1)] {
            for (complex, held, reverse) in [
                (false, false, false),
                (false, false, true),
                (false, true, true),
                (true, false, false),
                (true, false, true),
            ] {
                let case = Case {
                    sizes,
                    complex,
                    held,
                    reverse,
                    packed: true,
                    ..PLAIN
                };
                let few = if sizes.1 * sizes.0 > 200 { 1 } else { 4 };
                let cuts = cuts(sizes.1).into_iter().rev().take(few);
                all.extend(cuts.map(|cut| (case, cut, device, dtype)));
            }
        }
    }
    all.par_iter().for_each(|&(case, cut, device, dtype)| {
        let mut chunks = [0..cut, cut..case.sizes.1];
        if case.reverse {
            chunks.reverse();
        }
        assert_agrees(&case, &chunks, device, dtype);
    });
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    everywhere(|case, device, dtype| {
        let (first, second) = (run(case, device, dtype), run(case, device, dtype));
        assert_eq!(first, second, "{case:?} on {device}");
    });
}

#[test]
fn operands_of_more_than_two_to_the_31_values_are_reached_to_their_end() {
    let Some(device) = large::card() else { return };
    let wide = || large::full(1.0, large::CHANNELS, device);
    let narrow = || large::full(1.0, 1, device);
    // h = e^-1 h + 1 comes to rest at 1 / (1 - e^-1).
    let operands = ScanOperands {
        u: &wide(),
        delta: &wide(),
        a: &Tensor::full([large::CHANNELS, 1], -1.0_f32, device)
            .unwrap()
            .into(),
        a_im: None,
        b: &narrow(),
        c: &narrow(),
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
    };
    let options = ScanOptions {
        softplus: false,
        ..ScanOptions::default()
    };
    let output = selective_scan(&operands, &options).unwrap();
    let rest = 1.0 / (1.0 - (-1.0_f64).exp());
    let state = read(output.last_state.tensor().unwrap());
    assert!(state.iter().all(|&h| (h / rest - 1.0).abs() < 1e-6));
    let y = large::last_position(&output.y);
    assert!(y.iter().all(|&y| (y / rest - 1.0).abs() < 1.0 / 256.0));
    assert_eq!(output.y.dtype(), DType::BF16);
}
