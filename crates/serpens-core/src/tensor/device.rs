//! What can be asked of a device.

use crate::{Device, Error, Result, driver};

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device::Cpu
    }

    /// An NVIDIA GPU.
    ///
    /// # Errors
    /// [`Error::Library`] where the driver, NVRTC or cuBLASLt is missing, [`Error::NoDevice`] where there is no such
    /// card.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        driver::properties(Device::Cuda(ordinal))?;
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
        let count = driver::count().unwrap_or(0);
        (0..count).filter_map(|ordinal| Self::cuda(ordinal).ok())
    }

    /// Waits for everything queued on the device's current stream.
    pub fn synchronize(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => driver::synchronize(self),
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
        let wrong = || Error::DeviceName { name: text.into() };
        ordinal.map(Device::Cuda).ok_or_else(wrong)
    }
}
