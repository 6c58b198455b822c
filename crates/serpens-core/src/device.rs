//! Where tensors live.

use std::fmt;

/// A device that holds tensors and runs operations on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The processor: kernels in SIMD lanes, rayon's threads.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by the number that the driver gives it.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
