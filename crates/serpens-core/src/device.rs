//! Where tensors live.

use std::fmt;

use crate::pool::{self, MemoryStats};
use crate::{Error, Result, cuda};

/// A device that holds tensors and runs operations on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor: kernels in SIMD lanes, rayon's threads.
    Cpu,
    /// An NVIDIA GPU, by the number that the driver gives it.
    Cuda(usize),
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device::Cpu
    }

    /// An NVIDIA GPU.
    ///
    /// # Errors
    /// [`Error::Library`] where the driver, NVRTC or cuBLASLt is missing, [`Error::NoDevice`] where there is no such card.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        cuda::properties(Device::Cuda(ordinal))?;
        Ok(Device::Cuda(ordinal))
    }

    /// The fastest device of this machine: the first GPU that can be used, or the processor.
    pub fn best() -> Self {
        Self::gpus().next().unwrap_or(Device::Cpu)
    }

    /// Every device of this machine that can be used, the processor first.
    pub fn available() -> Vec<Self> {
        std::iter::once(Device::Cpu).chain(Self::gpus()).collect()
    }

    fn gpus() -> impl Iterator<Item = Self> {
        let count = cuda::state::count().unwrap_or(0);
        (0..count).filter_map(|ordinal| Self::cuda(ordinal).ok())
    }

    /// What the device's pool holds.
    pub fn memory(self) -> MemoryStats {
        pool::stats(self)
    }

    /// Gives the pool's unused buffers back to the system.
    pub fn release_unused(self) {
        pool::release_unused(self);
    }

    /// Forgets how much was in tensors at one time before now.
    pub fn reset_high_water(self) {
        pool::reset_high_water(self);
    }

    /// Waits for everything queued on the device.
    pub fn synchronize(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => cuda::synchronize(self),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda`, or `cuda:N`. Whether the device can be used is not asked.
    fn from_str(text: &str) -> Result<Self> {
        let ordinal = match text {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok()),
        };
        let wrong = || Error::argument("device", format!("{text:?} is not cpu, cuda or cuda:N"));
        ordinal.map(Device::Cuda).ok_or_else(wrong)
    }
}
