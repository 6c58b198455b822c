//! Inputs under zero-order hold: exact where δ A is small, zero, or neither.

use serpens_core::{Device, Error, Tensor, Var};

use super::*;
use crate::selective_scan::{ScanOptions, selective_scan};
use crate::shared::tests::dense::assert_same_bits_on_any_number_of_threads;

const HELD: Parts = Parts {
    held: true,
    ..Parts::ALL
};

/// A scan whose A is of these sizes, one after another, positive where they are.
fn with_rates(rates: &[f64], seed: u64) -> Case {
    let mut case = Case::random(dims(2, 70, 24, rates.len(), 1), HELD, seed);
    let a = case.scan.operands.a.iter_mut().zip(rates.iter().cycle());
    a.for_each(|(a, rate)| *a = f64::from((*a * rate) as f32));
    case
}

#[test]
fn small_exponents_are_as_exact_as_large_ones() {
    for size in [
        1.0, 0.3, 0.1, 1e-2, 1e-4, 1e-6, 1e-9, 1e-13, 1e-20, 1e-30, 0.0,
    ] {
        with_rates(&[size], 51).check();
    }
    with_rates(&[0.0, 1e-3, 0.25, 4.0, -0.1], 52).check();
}

#[test]
fn without_a_rate_the_input_is_that_of_euler_s_rule() {
    let mut case = with_rates(&[0.0], 53);
    let held = case.clone();
    case.scan.zero_order_hold = false;
    for isa in Isa::available() {
        let (held, euler) = (held.kernels(isa), case.kernels(isa));
        for ((name, held), (_, euler)) in held.tensors().into_iter().zip(euler.tensors()) {
            // Only A's gradient tells how the input would change with it.
            if name != "A" {
                assert_close(held, euler, 1e-6);
            }
        }
    }
}

#[test]
fn held_inputs_do_not_depend_on_the_number_of_threads() {
    let case = Case::random(dims(2, 70, 40, 6, 2), HELD, 54);
    assert_same_bits_on_any_number_of_threads(|| {
        let outcome = case.kernels(Isa::current());
        let tensors = outcome.tensors().into_iter();
        tensors.flat_map(|(_, x)| x.to_vec()).collect::<Vec<f32>>()
    });
}

#[test]
fn a_complex_a_is_refused() {
    let ones = |shape: [usize; 3]| Var::from(Tensor::full(shape, 1.0_f32, Device::Cpu).unwrap());
    let a = Var::from(Tensor::full([2, 1], -1.0_f32, Device::Cpu).unwrap());
    let operands = ScanOperands {
        u: &ones([1, 3, 2]),
        delta: &ones([1, 3, 2]),
        a: &a,
        a_im: Some(&a),
        b: &ones([1, 3, 2]),
        c: &ones([1, 3, 2]),
        d: None,
        z: None,
        delta_bias: None,
        initial_state: None,
    };
    let options = ScanOptions {
        zero_order_hold: true,
        ..ScanOptions::default()
    };
    let Err(error) = selective_scan(&operands, &options) else {
        panic!("taken");
    };
    assert!(matches!(error, Error::Surplus { .. }));
    let expected = "selective_scan: Im A (zero-order hold is for a real A) does not go with the other operands";
    assert_eq!(error.to_string(), expected);
}
