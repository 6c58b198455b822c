//! Operands of more than 2^31 values: offsets are 64 bits wide. They need a card with 40 GB; elsewhere the tests say
//! that they were skipped.

use serpens_core::{Device, Tensor, Var, bf16, cuda};

use super::{read, tell};
use crate::elementwise::mul;

pub(crate) const LENGTH: usize = 1_100_003;
pub(crate) const CHANNELS: usize = 2048;
const NEEDED: usize = 40_000_000_000;
const _: () = assert!(LENGTH * CHANNELS > 1 << 31);

/// A card that holds several such operands.
pub(crate) fn card() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) if cuda::properties(device).unwrap().memory >= NEEDED => return Some(device),
        Ok(_) => tell("large operands were skipped: the card has less than 40 GB"),
        Err(reason) => tell(&format!("large operands were skipped: {reason}")),
    }
    None
}

/// (1, LENGTH, `channels`) of one value.
pub(crate) fn full(value: f32, channels: usize, device: Device) -> Var {
    let shape = [1, LENGTH, channels];
    Tensor::full(shape, bf16::from_f32(value), device)
        .unwrap()
        .into()
}

/// The values of the last position.
pub(crate) fn last_position(y: &Var) -> Vec<f64> {
    let rows = y.reshape([1, LENGTH * CHANNELS]).unwrap();
    let last = rows
        .columns((LENGTH - 1) * CHANNELS..LENGTH * CHANNELS)
        .unwrap();
    // A copy of the columns alone: the whole does not fit every host's memory.
    let ones = Var::from(Tensor::full([1, CHANNELS], bf16::ONE, y.device()).unwrap());
    read(mul(&last, &ones).unwrap().tensor().unwrap())
}
