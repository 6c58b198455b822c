//! Operands of more than 2^31 values: offsets are 64 bits wide. Needs a card with 40 GB; elsewhere the test says that it was skipped.

use serpens_core::{DType, Device, Tensor, Var, bf16, cuda};
use serpens_ops::causal_conv1d::{ConvOptions, causal_conv1d};
use serpens_ops::selective_scan::{A, ScanInputs, ScanOptions, selective_scan};

use crate::support::{read, tell};

const LENGTH: usize = 1_100_003;
const CHANNELS: usize = 2048;
const NEEDED: usize = 40_000_000_000;

/// The values of the last position.
fn last_position(y: &Var) -> Vec<f64> {
    let rows = y.reshape([1, LENGTH * CHANNELS]).unwrap();
    let last = rows
        .columns((LENGTH - 1) * CHANNELS..LENGTH * CHANNELS)
        .unwrap();
    // A copy of the columns alone: the whole does not fit every host's memory.
    let ones = Var::from(Tensor::full([1, CHANNELS], bf16::ONE, y.device()).unwrap());
    let copy = serpens_ops::elementwise::mul(&last, &ones).unwrap();
    read(copy.tensor().unwrap())
}

#[test]
fn operands_of_more_than_two_to_the_31_values_are_reached_to_their_end() {
    let device = match Device::cuda(0) {
        Ok(device) if cuda::properties(device).unwrap().memory >= NEEDED => device,
        Ok(_) => return tell("large operands were skipped: the card has less than 40 GB"),
        Err(reason) => return tell(&format!("large operands were skipped: {reason}")),
    };
    let shape = [1, LENGTH, CHANNELS];
    const { assert!(LENGTH * CHANNELS > 1 << 31) };
    let full = |value: f32| Var::from(Tensor::full(shape, bf16::from_f32(value), device).unwrap());
    let per_channel = |value: f32| Var::from(Tensor::full([CHANNELS, 1], value, device).unwrap());

    // The mean of four inputs of one.
    let weight = Var::from(Tensor::full([CHANNELS, 1, 4], 0.25_f32, device).unwrap());
    let output = causal_conv1d(&full(1.0), &weight, None, None, &ConvOptions::default()).unwrap();
    assert!(last_position(&output.y).iter().all(|&y| y == 1.0));
    drop(output);

    // h = e^-1 h + 1 comes to rest at 1 / (1 - e^-1).
    let narrow = || Var::from(Tensor::full([1, LENGTH, 1], bf16::ONE, device).unwrap());
    let inputs = ScanInputs {
        u: &full(1.0),
        delta: &full(1.0),
        a: A::Real(&per_channel(-1.0)),
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
    let output = selective_scan(&inputs, &options).unwrap();
    let rest = 1.0 / (1.0 - (-1.0_f64).exp());
    let state = output.last_state.tensor().unwrap().to_vec::<f32>().unwrap();
    assert!(
        state
            .iter()
            .all(|&h| (f64::from(h) / rest - 1.0).abs() < 1e-6)
    );
    let y = last_position(&output.y);
    assert!(y.iter().all(|&y| (y / rest - 1.0).abs() < 1.0 / 256.0));
    assert_eq!(output.y.dtype(), DType::BF16);
}
