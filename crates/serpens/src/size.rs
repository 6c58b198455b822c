//! Whether something fits the memory, asked before it is allocated; in f64, as no product of sizes overflows it.

use serpens_core::{Device, cuda};

use crate::machine;

/// Whether this many bytes fit the device; true where the system does not tell its memory.
pub(crate) fn fits(bytes: f64, device: Device) -> bool {
    let memory = match device {
        Device::Cpu => machine::memory(),
        Device::Cuda(_) => cuda::properties(device).ok().map(|card| card.memory as u64),
    };
    memory.is_none_or(|memory| bytes <= memory as f64)
}

/// Whose memory it is, in words.
pub(crate) fn owner(device: Device) -> &'static str {
    match device {
        Device::Cpu => "this machine's memory",
        Device::Cuda(_) => "the GPU's memory",
    }
}
