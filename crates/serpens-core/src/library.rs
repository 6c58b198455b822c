//! The libraries of NVIDIA's that a GPU needs.

use std::fmt;

/// A library of NVIDIA's that is opened at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibraryKind {
    /// The driver's own; it comes with the driver.
    Driver,
    /// The compiler of kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
}

impl LibraryKind {
    /// File names, the newest version first.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            LibraryKind::Driver => &["libcuda.so.1", "libcuda.so"],
            LibraryKind::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            LibraryKind::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
        }
    }

    /// How to get it, in a line.
    pub fn advice(self) -> &'static str {
        match self {
            LibraryKind::Driver => "where there is an NVIDIA GPU, install its driver",
            LibraryKind::Nvrtc => {
                "pip install nvidia-cuda-nvrtc, or install CUDA 12.8 or later, or name the folder in SERPENS_CUDA_LIBRARIES"
            }
            LibraryKind::CublasLt => {
                "pip install nvidia-cublas, or install CUDA 12.8 or later, or name the folder in SERPENS_CUDA_LIBRARIES"
            }
        }
    }
}

impl fmt::Display for LibraryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LibraryKind::Driver => "the NVIDIA driver",
            LibraryKind::Nvrtc => "NVRTC",
            LibraryKind::CublasLt => "cuBLASLt",
        })
    }
}
