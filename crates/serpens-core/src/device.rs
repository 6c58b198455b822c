//! Where tensors live.

use std::fmt;

use crate::pool::{self, MemoryStats};

/// A device that holds tensors and runs operations on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor: kernels in SIMD lanes, rayon's threads.
    Cpu,
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device::Cpu
    }

    /// The fastest device of this machine.
    pub fn best() -> Self {
        Device::Cpu
    }

    /// What the device's pool holds.
    pub fn memory(self) -> MemoryStats {
        pool::stats()
    }

    /// Gives the pool's unused buffers back to the system.
    pub fn release_unused(self) {
        pool::release_unused();
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cpu")
    }
}
