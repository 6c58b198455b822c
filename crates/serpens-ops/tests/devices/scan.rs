//! The selective scan: every optional part, both directions, real and complex, sizes that are multiples of nothing.

use rayon::prelude::*;
use serpens_core::{DType, Device, Gradients, ParamId, Shape, Tape, Tensor, Var};
use serpens_ops::Starts;
use serpens_ops::selective_scan::cpu::Dims;
use serpens_ops::selective_scan::reference::{self, Options, Values};
use serpens_ops::selective_scan::{A, ScanInputs, ScanOptions, selective_scan};

use crate::support::{cases, distance, read, round, tensor, values};

/// A scan and what of it is present.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// (batch, length, channels, N, groups).
    sizes: (usize, usize, usize, usize, usize),
    complex: bool,
    gate: bool,
    /// D, the bias and the initial state.
    extras: bool,
    softplus: bool,
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
    reverse: false,
    packed: false,
    columns: false,
};

/// Lengths around every tile, N around every split, and each option in turn.
fn all() -> Vec<Case> {
    let mut all: Vec<Case> = [
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
    .iter()
    .map(|&sizes| Case { sizes, ..PLAIN })
    .collect();
    let complex: Vec<Case> = all
        .iter()
        .map(|&case| Case {
            complex: true,
            ..case
        })
        .collect();
    all.extend(complex);
    for base in [
        PLAIN,
        Case {
            complex: true,
            ..PLAIN
        },
    ] {
        all.extend([
            base,
            Case {
                gate: false,
                ..base
            },
            Case {
                extras: false,
                ..base
            },
            Case {
                softplus: false,
                ..base
            },
            Case {
                reverse: true,
                ..base
            },
            Case {
                packed: true,
                ..base
            },
            Case {
                reverse: true,
                packed: true,
                columns: true,
                ..base
            },
            Case {
                columns: true,
                ..base
            },
        ]);
    }
    // Enough channels for the widest blocks of a GPU; few, for so long that every buffer of theirs is used again.
    for sizes in [
        (264, 37, 64, 16, 1),
        (1, 577, 12, 16, 1),
        (2, 449, 9, 12, 1),
    ] {
        let base = Case { sizes, ..PLAIN };
        all.extend([
            base,
            Case {
                reverse: true,
                packed: true,
                columns: true,
                ..base
            },
        ]);
    }
    // Long enough for few channels that a GPU cuts them into segments of time.
    let long = Case {
        sizes: (1, 3001, 24, 16, 1),
        ..PLAIN
    };
    all.extend([
        long,
        Case {
            sizes: (2, 4100, 6, 7, 2),
            gate: false,
            ..long
        },
        Case {
            reverse: true,
            packed: true,
            columns: true,
            ..long
        },
    ]);
    all
}

impl Case {
    fn parts(&self) -> usize {
        if self.complex { 2 } else { 1 }
    }

    fn dims(&self) -> Dims {
        let (batch, length, channels, state, groups) = self.sizes;
        Dims {
            batch,
            length,
            channels,
            state,
            groups,
        }
    }

    /// Operands that are exact in `dtype` where they come in it.
    fn values(&self, dtype: DType) -> Values<f64> {
        let (batch, length, channels, state, groups) = self.sizes;
        let (wide, bc) = (
            [batch, length, channels],
            [batch, length, groups * self.parts() * state],
        );
        let f32s = DType::F32;
        let shifted = |values: Vec<f64>, by: f64| -> Vec<f64> {
            values
                .iter()
                .map(|value| f64::from((value + by) as f32))
                .collect()
        };
        let extras = |values: Vec<f64>| if self.extras { values } else { Vec::new() };
        let initial = [batch, channels, self.parts() * state];
        // Without softplus Δ itself must be positive, so that the state decays.
        let delta = values(2, wide, 1.75, dtype);
        let delta = match self.softplus {
            true => delta,
            false => delta.iter().map(|value| value.abs()).collect(),
        };
        Values {
            u: values(1, wide, 1.5, dtype),
            delta,
            a_re: shifted(values(3, [channels, state], 0.95, f32s), -1.0),
            a_im: match self.complex {
                true => values(4, [channels, state], 6.0, f32s),
                false => Vec::new(),
            },
            b: values(5, bc, 1.5, dtype),
            c: values(6, bc, 1.5, dtype),
            d: extras(values(7, [channels], 1.0, f32s)),
            z: if self.gate {
                values(8, wide, 3.0, dtype)
            } else {
                Vec::new()
            },
            delta_bias: extras(shifted(values(9, [channels], 0.25, f32s), 0.25)),
            initial_state: extras(values(10, initial, 1.0, f32s)),
        }
    }

    fn starts(&self) -> Option<Starts> {
        let (batch, length, ..) = self.sizes;
        let ids: Vec<u32> = (0..batch * length)
            .map(|i| (i * i / 97 + i / 13) as u32)
            .collect();
        self.packed
            .then(|| Starts::from_sequence_ids(&ids, batch).unwrap())
    }

    fn options(&self) -> Options {
        let (batch, length, ..) = self.sizes;
        let flags = |starts: Starts| starts.flags("the test", batch, length).unwrap().to_vec();
        Options {
            starts: self.starts().map(flags).unwrap_or_default(),
            softplus: self.softplus,
            reverse: self.reverse,
        }
    }

    /// The gradients of y and of the last state.
    fn upstream(&self, dtype: DType) -> (Vec<f64>, Vec<f64>) {
        let (batch, length, channels, state, _) = self.sizes;
        let last = [batch, channels, self.parts() * state];
        (
            values(11, [batch, length, channels], 1.0, dtype),
            values(12, last, 1.0, DType::F32),
        )
    }
}

/// A leaf with these values, inside wider rows where asked for.
fn leaf(
    tape: &Tape,
    shape: [usize; 3],
    from: &[f64],
    inside: bool,
    dtype: DType,
    device: Device,
) -> (Var, Var) {
    if !inside {
        let whole = tape.leaf(tensor(shape, from, dtype, device));
        return (whole.clone(), whole);
    }
    let [batch, length, cols] = shape;
    let rows = from.chunks(cols);
    let wider: Vec<f64> = rows
        .flat_map(|row| {
            [9.0]
                .into_iter()
                .chain(row.iter().copied())
                .chain([-9.0, 9.0])
        })
        .collect();
    let whole = tape.leaf(tensor([batch, length, cols + 3], &wider, dtype, device));
    let part = whole.columns(1..cols + 1).unwrap();
    (whole, part)
}

/// Names with values: y, the last state and every gradient.
type Outcome = Vec<(&'static str, Vec<f64>)>;

fn run(case: &Case, device: Device, dtype: DType) -> Outcome {
    let (batch, length, channels, state, groups) = case.sizes;
    let (x, tape) = (case.values(dtype), Tape::new());
    let wide = [batch, length, channels];
    let bc = [batch, length, groups * case.parts() * state];
    let row_leaf = |values: &[f64], shape| leaf(&tape, shape, values, case.columns, dtype, device);
    let rows = [
        ("u", row_leaf(&x.u, wide), wide),
        ("delta", row_leaf(&x.delta, wide), wide),
        ("b", row_leaf(&x.b, bc), bc),
        ("c", row_leaf(&x.c, bc), bc),
        (
            "z",
            row_leaf(if case.gate { &x.z } else { &x.u }, wide),
            wide,
        ),
    ];
    let of = |name: &str| &rows.iter().find(|row| row.0 == name).unwrap().1.1;
    let param = |name: &'static str, values: &[f64], shape: &[usize]| {
        let value = || tensor(Shape::new(shape), values, DType::F32, device);
        let id = ParamId::fresh();
        (!values.is_empty()).then(|| (name, id, Var::param(id, value())))
    };
    let params: Vec<_> = [
        param("a_re", &x.a_re, &[channels, state]),
        param("a_im", &x.a_im, &[channels, state]),
        param("d", &x.d, &[channels]),
        param("delta_bias", &x.delta_bias, &[channels]),
        param(
            "initial_state",
            &x.initial_state,
            &[batch, channels, case.parts() * state],
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    let maybe = |name: &str| {
        params
            .iter()
            .find(|param| param.0 == name)
            .map(|param| &param.2)
    };
    let re = maybe("a_re").unwrap();
    let starts = case.starts();
    let inputs = ScanInputs {
        u: of("u"),
        delta: of("delta"),
        a: maybe("a_im").map_or(A::Real(re), |im| A::Complex { re, im }),
        b: of("b"),
        c: of("c"),
        d: maybe("d"),
        z: case.gate.then(|| of("z")),
        delta_bias: maybe("delta_bias"),
        initial_state: maybe("initial_state"),
    };
    let options = ScanOptions {
        groups,
        softplus: case.softplus,
        reverse: case.reverse,
        starts: starts.as_ref(),
    };
    let output = selective_scan(&inputs, &options).unwrap();
    let (dy, dlast) = case.upstream(dtype);
    let dy = tensor(wide, &dy, dtype, device);
    let dlast = tensor(output.last_state.shape(), &dlast, DType::F32, device);
    let mut gradients = Gradients::new();
    let upstream = vec![(&output.y, dy), (&output.last_state, dlast)];
    tape.backward_from(upstream, &mut gradients).unwrap();
    let mut outcome = vec![
        ("y", read(output.y.tensor().unwrap())),
        ("last", read(output.last_state.tensor().unwrap())),
    ];
    for (name, (whole, _), shape) in &rows {
        if *name != "z" || case.gate {
            let gradient = tape.gradient(whole).unwrap().unwrap();
            assert_eq!(gradient.dtype(), dtype);
            outcome.push((*name, inner(&gradient, shape[2])));
        }
    }
    for (name, id, _) in &params {
        let gradient = gradients.get(*id).unwrap().unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        outcome.push((*name, read(&gradient)));
    }
    outcome
}

/// The values of the columns that [`leaf`] makes.
fn inner(tensor: &Tensor, cols: usize) -> Vec<f64> {
    let stride = tensor.shape().cols();
    let from = stride - cols - if stride > cols { 2 } else { 0 };
    let all = read(tensor);
    let rows = all.chunks(stride);
    rows.flat_map(|row| row[from..from + cols].to_vec())
        .collect()
}

/// Holds a result to the rule of the processor's kernels: twice the error of the plain evaluation in `dtype`, three times for
/// complex scans, and a unit in the last place of f32, since among few values the plain evaluation may be exact by luck.
fn assert_near(what: &str, got: &[f64], truth: &[f64], plain: &[f32], dtype: DType, complex: bool) {
    let plain: Vec<f64> = plain.iter().map(|&v| round(v.into(), dtype)).collect();
    let rounded: Vec<f64> = truth.iter().map(|&v| round(v, dtype)).collect();
    let factor = if complex { 3.0 } else { 2.0 };
    let allowed = factor * distance(&plain, truth).max(distance(&rounded, truth)) + 1.2e-7;
    let error = distance(got, truth);
    assert!(
        error <= allowed,
        "{what}: error {error:.3e}, allowed {allowed:.3e}"
    );
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

fn assert_agrees(case: &Case, device: Device, dtype: DType) {
    let (dims, options) = (case.dims(), case.options());
    let (exact, (dy, dlast)) = (case.values(dtype), case.upstream(dtype));
    let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
    let single = exact.cast::<f32>();
    let truth = reference::forward(&dims, &exact, &options);
    let plain = reference::forward(&dims, &single, &options);
    let mut truths = reference::backward(&dims, &exact, &options, &dy, &dlast);
    let (dy, dlast) = (narrow(&dy), narrow(&dlast));
    let mut plains = reference::backward(&dims, &single, &options, &dy, &dlast);
    for (name, got) in run(case, device, dtype) {
        let (truth, plain) = match name {
            "y" => (&truth.0, &plain.0),
            "last" => (&truth.1, &plain.1),
            _ => (
                &*truths.get_mut(name).unwrap(),
                &*plains.get_mut(name).unwrap(),
            ),
        };
        let what = format!("{name} on {device} in {dtype}, {case:?}");
        assert_near(&what, &got, truth, plain, dtype, case.complex);
    }
}

#[test]
fn outputs_and_gradients_agree_with_the_definition_on_every_device() {
    everywhere(assert_agrees);
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    everywhere(|case, device, dtype| {
        let (first, second) = (run(case, device, dtype), run(case, device, dtype));
        assert_eq!(first, second, "{case:?} on {device}");
    });
}
