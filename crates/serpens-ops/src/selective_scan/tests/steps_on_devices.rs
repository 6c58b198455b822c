//! One position of many slots, on every device.

use serpens_core::{DType, Device, Tensor, Var};

use super::steps::StepCase;
use crate::Layout;
use crate::selective_scan::{StepDelta, StepOperands, step};
use crate::shared::tests::{assert_near, cases, read, round, tensor};

/// States and ranks that allow every access and none, more channels than a block has, ranks beyond what a thread keeps.
fn problems(dtype: DType) -> Vec<StepCase> {
    let sizes = [
        ([1, 130, 16], Some(48), true),
        ([9, 64, 16], None, true),
        ([3, 33, 5], Some(7), true),
        ([2, 40, 64], Some(300), false),
        ([1, 9, 256], Some(1), true),
        ([70, 96, 8], Some(16), true),
        ([19, 130, 16], Some(48), true),
        ([13, 40, 32], Some(8), false),
        ([2, 5, 1], None, false),
    ];
    let rounded = |values: &mut Vec<f64>| values.iter_mut().for_each(|v| *v = round(*v, dtype));
    let sizes = sizes.map(|sizes| [(sizes, false), (sizes, true)]);
    let of = |((sizes, rank, all), held)| {
        let mut case = StepCase::new(sizes, rank, false, all);
        case.case.scan.zero_order_hold = held;
        let operands = case.case.scan.operands.as_mut();
        operands.map(|role, values| (role.layout == Layout::Rows).then(|| rounded(values)));
        if let Some((low, weight, _)) = &mut case.low_rank {
            rounded(low);
            rounded(weight);
        }
        case
    };
    sizes.into_iter().flatten().map(of).collect()
}

/// Rows of these matrices side by side.
fn beside(matrices: &[&[f64]], rows: usize) -> Vec<f64> {
    let row = |i: usize| {
        matrices
            .iter()
            .flat_map(move |m| m.chunks(m.len() / rows).nth(i).unwrap_or(&[]))
    };
    (0..rows).flat_map(row).copied().collect()
}

/// y and the state behind it, which is of the type `states`; B, C and what Δ comes from lie in one matrix, as do u and
/// z.
fn run(case: &StepCase, device: Device, dtype: DType, states: DType) -> [Vec<f64>; 2] {
    let ([slots, channels, n], x) = (case.sizes(), &case.case.scan.operands);
    let rows = |values: &[&[f64]]| {
        let all = beside(values, slots);
        Var::from(tensor([slots, all.len() / slots], &all, dtype, device))
    };
    let (low, rank) = match &case.low_rank {
        Some((low, _, rank)) => (low, *rank),
        None => (&x.delta, channels),
    };
    let projected = rows(&[low, &x.b, &x.c]);
    let part = |from, width| projected.columns(from..from + width).unwrap();
    let (low, b, c) = (part(0, rank), part(rank, n), part(rank + n, n));
    let inputs = rows(&[&x.u, x.z.as_ref().unwrap_or(&x.u)]);
    let half = |from| inputs.columns(from..from + channels).unwrap();
    let (u, z) = (half(0), half(channels));
    let f32s = |rows: usize, values: &[f64]| {
        tensor([rows, values.len() / rows], values, DType::F32, device)
    };
    let vector = |values: &Option<Vec<f64>>| values.as_ref().map(|values| f32s(1, values));
    let weight = (case.low_rank.as_ref())
        .map(|(_, weight, rank)| tensor([channels, *rank], weight, dtype, device));
    let (a, d, bias) = (f32s(channels, &x.a), vector(&x.d), vector(&x.delta_bias));
    let operands = StepOperands {
        u: u.view(),
        delta: match &weight {
            Some(weight) => StepDelta::LowRank {
                low: low.view(),
                weight: weight.view(),
            },
            None => StepDelta::Given(low.view()),
        },
        a: a.view(),
        b: b.view(),
        c: c.view(),
        d: d.as_ref().map(Tensor::view),
        z: x.z.as_ref().map(|_| z.view()),
        delta_bias: bias.as_ref().map(Tensor::view),
        zero_order_hold: case.case.scan.zero_order_hold,
    };
    let initial = x.initial_state.as_ref().unwrap();
    let mut state = tensor([slots, channels * n], initial, states, device);
    let blank = vec![f64::NAN; slots * channels];
    let mut y = tensor([slots, channels], &blank, dtype, device);
    step(&operands, state.view_mut().unwrap(), y.view_mut().unwrap()).unwrap();
    [read(&y), read(&state)]
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems(dtype) {
        run(&case, device, dtype, DType::F32);
        run(&case, device, dtype, DType::BF16);
    }
}

#[test]
fn states_in_bf16_are_those_of_f32_rounded_once_on_every_device() {
    for (device, dtype) in cases() {
        for mut case in problems(dtype) {
            let initial = case.case.scan.operands.initial_state.as_mut().unwrap();
            initial.iter_mut().for_each(|v| *v = round(*v, DType::BF16));
            let [y, state] = run(&case, device, dtype, DType::F32);
            let rounded = state.iter().map(|v| round(*v, DType::BF16)).collect();
            let got = run(&case, device, dtype, DType::BF16);
            let what = format!("{:?} on {device} in {dtype}", case.sizes());
            assert_eq!(got, [y, rounded], "{what}");
        }
    }
}

#[test]
fn steps_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(dtype) {
            let got = run(&case, device, dtype, DType::F32);
            let (truth, plain) = (case.plain::<f64>(), case.plain::<f32>());
            let what = format!("of {:?} on {device} in {dtype}", case.sizes());
            assert_near(&format!("y {what}"), &got[0], &truth[0], &plain[0], dtype);
            assert_near(
                &format!("the state {what}"),
                &got[1],
                &truth[1],
                &plain[1],
                DType::F32,
            );
        }
    }
}

#[test]
fn a_slot_has_the_same_bits_whatever_is_beside_it_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(dtype) {
            let [slots, ..] = case.sizes();
            if slots < 3 {
                continue;
            }
            let whole = run(&case, device, dtype, DType::F32);
            let mut others = case.clone();
            let nan = |values: &mut Vec<f64>| {
                let row = values.len() / slots;
                values[..row].fill(f64::NAN);
                values[2 * row..].fill(f64::NAN);
            };
            let operands = others.case.scan.operands.as_mut();
            operands.map(|role, values| {
                let of_slots = role.layout == Layout::Rows || role.name == "initial_state";
                of_slots.then(|| nan(values))
            });
            if let Some((low, ..)) = &mut others.low_rank {
                nan(low);
            }
            let alone = run(&others, device, dtype, DType::F32);
            for (whole, alone) in whole.iter().zip(&alone) {
                let row = whole.len() / slots;
                assert_eq!(
                    whole[row..2 * row],
                    alone[row..2 * row],
                    "{:?} on {device}",
                    case.sizes()
                );
            }
        }
    }
}
