pub(crate) mod devices;
mod gradcheck;
mod properties;
mod reference;
mod steps;

use serpens_core::{DType, Device};

use crate::shared::tests::cases;

/// Every device present with each type of a table, which on the processor too may be bf16.
fn tables() -> impl Iterator<Item = (Device, DType)> {
    let devices = cases().into_iter().filter(|case| case.1 == DType::F32);
    devices.flat_map(|(device, _)| [DType::F32, DType::BF16].map(|dtype| (device, dtype)))
}
