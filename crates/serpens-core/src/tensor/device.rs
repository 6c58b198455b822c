//! What can be asked of a device.

use std::fs;

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

    /// Bytes of memory that this process may use there, where the system tells them: the card's; or the machine's, and
    /// no more than a container's share.
    pub fn capacity(self) -> Option<u64> {
        if self != Device::Cpu {
            return driver::properties(self).ok().map(|card| card.memory as u64);
        }
        let number = |path, word: usize| -> Option<u64> {
            let text = fs::read_to_string(path).ok()?;
            text.split_whitespace().nth(word)?.parse().ok()
        };
        let machine = number("/proc/meminfo", 1).map(|kilobytes| kilobytes * 1024); // MemTotal: N kB
        let shares = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        let shares = shares.into_iter().filter_map(|path| number(path, 0));
        shares.chain(machine).min()
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
        let device = ordinal.map(Device::Cuda);
        device.ok_or_else(|| Error::DeviceName(text.into()))
    }
}
