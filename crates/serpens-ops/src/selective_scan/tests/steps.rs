//! One position at a time, in place.

use serpens_core::{DType, Device, Tensor, bf16};

use super::*;
use crate::selective_scan::{StepDelta, StepOperands, step};
use crate::shared::tests::dense::{Wide, assert_same_bits_on_any_number_of_threads};
use crate::shared::tests::tensor;

/// A position of many slots, with Δ as it is or of low rank.
#[derive(Clone)]
pub(super) struct StepCase {
    pub(super) case: Case,
    /// (slots, R), (channels, R) and R.
    pub(super) low_rank: Option<(Vec<f64>, Vec<f64>, usize)>,
    in_bf16: bool,
}

impl StepCase {
    pub(super) fn new(
        [slots, channels, n]: [usize; 3],
        rank: Option<usize>,
        in_bf16: bool,
        all: bool,
    ) -> Self {
        let bare = Parts {
            d: false,
            z: false,
            bias: false,
            ..Parts::ALL
        };
        let with = if all { Parts::ALL } else { bare };
        let seed = (slots * channels * n) as u64;
        let case = Case::random(dims(slots, 1, channels, n, 1), with, seed);
        let round = |v: &f64| match in_bf16 {
            true => bf16::from_f64(*v).to_f64(),
            false => *v,
        };
        let low_rank = rank.map(|rank| {
            // What another case has as u and z.
            let values = |rows| Case::random(dims(rows, 1, rank, 1, 1), Parts::ALL, seed + 1);
            let weight = values(channels).scan.operands.u;
            let weight = weight.iter().map(round).collect();
            (values(slots).scan.operands.z.unwrap(), weight, rank)
        });
        Self {
            case,
            low_rank,
            in_bf16,
        }
    }

    pub(super) fn sizes(&self) -> [usize; 3] {
        let dims = &self.case.scan.dims;
        [dims.batch, dims.channels, dims.state]
    }

    /// The definition in the precision `T`: y and the state behind it.
    pub(super) fn plain<T: Real>(&self) -> [Vec<T>; 2] {
        let mut scan = self.case.scan.cast::<T>();
        if let Some((low, weight, rank)) = &self.low_rank {
            let (low, weight) = (narrow::<T>(low), narrow::<T>(weight));
            scan.operands.delta = reference::low_rank(&low, &weight, *rank);
        }
        let (y, state) = reference::forward(&scan);
        [y, state]
    }

    fn kernel(&self, isa: Isa) -> [Vec<f32>; 2] {
        let ([slots, channels, n], x) = (self.sizes(), self.case.scan.operands.cast::<f32>());
        let wide = |values: &[f32], cols| Wide::new(values, slots, cols, 1);
        let [u, delta, b, c] = [&x.u, &x.delta, &x.b, &x.c].map(|v| wide(v, v.len() / slots));
        let z = x.z.as_ref().map(|z| wide(z, channels));
        let low = self.low_rank.as_ref();
        let low = low.map(|(low, weight, rank)| (wide(&narrow(low), *rank), weight, *rank));
        let weight: Vec<f32> = low.as_ref().map_or(vec![], |(_, weight, _)| narrow(weight));
        let short: Vec<bf16> = weight.iter().map(|v| bf16::from_f32(*v)).collect();
        let operands = cpu::Step {
            u: u.mat(),
            delta: match &low {
                None => cpu::Delta::Given(delta.mat()),
                Some((low, _, rank)) if self.in_bf16 => {
                    cpu::Delta::LowRankBf16(low.mat(), Mat::dense(&short, *rank))
                }
                Some((low, _, rank)) => cpu::Delta::LowRank(low.mat(), Mat::dense(&weight, *rank)),
            },
            a: Mat::dense(&x.a, n),
            b: b.mat(),
            c: c.mat(),
            d: x.d.as_deref(),
            z: z.as_ref().map(Wide::mat),
            delta_bias: x.delta_bias.as_deref(),
            zero_order_hold: self.case.scan.zero_order_hold,
        };
        let mut state = wide(x.initial_state.as_ref().unwrap(), channels * n);
        let mut y = Wide::blank(slots, channels, 1);
        cpu::step_on(isa, &operands, state.mat_mut(), y.mat_mut());
        [y.dense(), state.dense()]
    }

    fn scaled(&self, scale: f64) -> Self {
        let scaled = |values: &[f64]| -> Vec<f64> {
            let of = |v: &f64| f64::from((v * scale) as f32);
            values.iter().map(of).collect()
        };
        let low_rank = self.low_rank.as_ref();
        Self {
            case: self.case.scaled(scale),
            low_rank: low_rank.map(|(low, weight, rank)| (scaled(low), weight.clone(), *rank)),
            in_bf16: self.in_bf16,
        }
    }

    /// Holds every instruction set to twice the plain evaluation's error.
    fn check(&self) {
        let plain: [f64; 2] = largest_of_neighbours(|scale| {
            let case = self.scaled(scale);
            let (exact, plain) = (case.plain::<f64>(), case.plain::<f32>());
            std::array::from_fn(|i| largest_error(&plain[i], &exact[i]))
        });
        let exact = self.plain::<f64>();
        for isa in Isa::available() {
            let computed = self.kernel(isa);
            for (i, what) in ["y", "the state"].into_iter().enumerate() {
                let error = largest_error(&computed[i], &exact[i]);
                let sizes = self.sizes();
                assert!(
                    error <= 2.0 * plain[i],
                    "{what} on {isa:?}: {error:e} where plainly {:e}, {sizes:?}",
                    plain[i]
                );
            }
        }
    }

    /// These slots alone.
    fn slots(&self, slots: std::ops::Range<usize>) -> Self {
        let mut part = self.clone();
        let [all, ..] = self.sizes();
        let rows = |values: &Vec<f64>| {
            let row = values.len() / all;
            values[slots.start * row..slots.end * row].to_vec()
        };
        part.case.scan.dims.batch = slots.len();
        let operands = self.case.scan.operands.as_ref();
        part.case.scan.operands = operands.map(|role, x| match (role.layout, role.name) {
            (Layout::Rows, _) | (_, "initial_state") => rows(x),
            _ => x.clone(),
        });
        let low_rank = self.low_rank.as_ref();
        part.low_rank = low_rank.map(|(low, weight, rank)| (rows(low), weight.clone(), *rank));
        part
    }
}

#[test]
fn a_step_is_as_near_to_the_definition_as_its_plain_evaluation() {
    for all in [true, false] {
        for (slots, channels, n) in [
            (1, 130, 16),
            (3, 64, 5),
            (17, 33, 1),
            (2, 1, 40),
            (1, 9, 256),
        ] {
            for (rank, in_bf16) in [
                (None, false),
                (Some(48), false),
                (Some(7), true),
                (Some(1), false),
            ] {
                let mut case = StepCase::new([slots, channels, n], rank, in_bf16, all);
                case.check();
                case.case.scan.zero_order_hold = true;
                case.check();
            }
        }
    }
}

#[test]
fn steps_have_the_states_of_the_scan_at_every_position() {
    for held in [false, true] {
        check_states(Parts { held, ..Parts::ALL });
    }
}

fn check_states(with: Parts) {
    let case = Case::random(dims(2, 12, 70, 16, 1), with, 31);
    for isa in Isa::available() {
        let whole = case.kernels(isa);
        let mut state = case.scan.operands.initial_state.clone().unwrap();
        for t in 0..12 {
            let step = StepCase {
                case: case.cut(t, t + 1, Some(state)),
                low_rank: None,
                in_bf16: false,
            };
            let [y, next] = step.kernel(isa);
            let expected = parity::positions(&whole.out, &case.scan.dims, t, t + 1);
            assert_close(&y, &expected, 1e-6);
            state = parity::wide(&next);
        }
        assert_close(&narrow::<f32>(&state), &whole.last, 1e-6);
    }
}

#[test]
fn a_slot_has_the_same_bits_alone_and_beside_others_even_nan() {
    let mut case = StepCase::new([40, 150, 16], Some(9), false, true);
    let operands = &mut case.case.scan.operands;
    operands.u[5 * 150..6 * 150].fill(f64::NAN);
    operands.initial_state.as_mut().unwrap()[17 * 2400..18 * 2400].fill(f64::NAN);
    // Far beyond what other slots forget, and what is no number.
    case.low_rank.as_mut().unwrap().0[18 * 9..19 * 9].fill(1e30);
    case.low_rank.as_mut().unwrap().0[20 * 9..21 * 9].fill(f64::NAN);
    for isa in Isa::available() {
        let [y, state] = case.kernel(isa);
        for slot in [0, 4, 6, 16, 19, 21, 39] {
            let [y_alone, state_alone] = case.slots(slot..slot + 1).kernel(isa);
            assert_eq!(y_alone, y[slot * 150..(slot + 1) * 150]);
            assert_eq!(state_alone, state[slot * 2400..(slot + 1) * 2400]);
            assert!(y_alone.iter().chain(&state_alone).all(|v| v.is_finite()));
        }
    }
    assert_same_bits_on_any_number_of_threads(|| case.kernel(Isa::current()).concat());
}

#[test]
fn a_step_of_views_is_that_of_the_kernel_or_refused() {
    let case = StepCase::new([3, 20, 4], Some(5), false, true);
    let x = &case.case.scan.operands;
    let (low, weight, _) = case.low_rank.as_ref().unwrap();
    let on_cpu = |shape: [usize; 2], values: &[f64]| tensor(shape, values, DType::F32, Device::Cpu);
    let vector = |values: &Option<Vec<f64>>| on_cpu([1, 20], values.as_ref().unwrap());
    let (u, a, z) = (
        on_cpu([3, 20], &x.u),
        on_cpu([20, 4], &x.a),
        on_cpu([3, 20], x.z.as_ref().unwrap()),
    );
    let (b, c) = (on_cpu([3, 4], &x.b), on_cpu([3, 4], &x.c));
    let (low, weight) = (on_cpu([3, 5], low), on_cpu([20, 5], weight));
    let (d, bias) = (vector(&x.d), vector(&x.delta_bias));
    let operands = StepOperands {
        u: u.view(),
        delta: StepDelta::LowRank {
            low: low.view(),
            weight: weight.view(),
        },
        a: a.view(),
        b: b.view(),
        c: c.view(),
        d: Some(d.view()),
        z: Some(z.view()),
        delta_bias: Some(bias.view()),
        zero_order_hold: false,
    };
    let mut state = on_cpu([3, 80], x.initial_state.as_ref().unwrap());
    let mut y = Tensor::zeros([3, 20], DType::F32, Device::Cpu).unwrap();
    step(&operands, state.view_mut().unwrap(), y.view_mut().unwrap()).unwrap();
    let got = [&y, &state].map(|tensor| tensor.to_vec::<f32>().unwrap());
    assert_eq!(got, case.kernel(Isa::current()));

    let mut refused = |operands: StepOperands<'_>| {
        let (state, y) = (state.view_mut().unwrap(), y.view_mut().unwrap());
        step(&operands, state, y).unwrap_err().to_string()
    };
    let given = StepDelta::Given(b.view());
    for (operands, what) in [
        (
            StepOperands {
                b: u.view(),
                ..operands
            },
            "B has shape (3, 20), expected (3, 4)",
        ),
        (
            StepOperands {
                delta: given,
                ..operands
            },
            "delta has shape (3, 4), expected (3, 20)",
        ),
        (
            StepOperands {
                a: u.view(),
                ..operands
            },
            "A has shape (3, 20), expected (20, 20)",
        ),
        (
            StepOperands {
                d: Some(u.view()),
                ..operands
            },
            "D has shape (3, 20), expected (1, 20)",
        ),
    ] {
        assert_eq!(refused(operands), format!("selective_scan: {what}"));
    }
}

/// Holds the state and y behind so many positions to the error that the scan itself has there, twice over, against f64.
fn check_drift(positions: usize) {
    const ROUND: usize = 1000;
    let mut case = Case::random(dims(1, ROUND, 24, 16, 1), Parts::ALL, 41);
    // Slow ones remember for thousands of positions.
    for (i, a) in case.scan.operands.a.iter_mut().enumerate() {
        *a = -f64::from(2.0_f32.powi(-((i % 16) as i32)));
    }
    let start = case.scan.operands.initial_state.clone();
    let [mut of_steps, mut of_scan] = [(); 2].map(|()| start.clone().unwrap());
    let mut exact = reference::forward(&case.scan).1;
    let mut scan = case.scan.clone();
    for round in 0..positions / ROUND {
        if round > 0 {
            scan.operands.initial_state = Some(exact);
            exact = reference::forward(&scan).1;
        }
        let whole = case.cut(0, ROUND, Some(of_scan)).kernels(Isa::current());
        of_scan = parity::wide(&whole.last);
        for t in 0..ROUND {
            let step = StepCase {
                case: case.cut(t, t + 1, Some(of_steps)),
                low_rank: None,
                in_bf16: false,
            };
            of_steps = parity::wide(&step.kernel(Isa::current())[1]);
        }
        let [steps, scan] = [&of_steps, &of_scan].map(|state| largest_error(state, &exact));
        assert!(
            steps <= 2.0 * scan,
            "round {round}: {steps:e}, the scan {scan:e}"
        );
    }
}

#[test]
fn the_state_of_ten_thousand_steps_drifts_no_more_than_the_scan() {
    check_drift(10_000);
}

#[test]
#[ignore = "takes minutes"]
fn the_state_of_a_million_steps_drifts_no_more_than_the_scan() {
    check_drift(1_000_000);
}
