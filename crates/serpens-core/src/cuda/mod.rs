//! NVIDIA GPUs: the driver, NVRTC and cuBLASLt, opened at run time, so that one binary runs with and without them.
//!
//! Everything that touches a device's memory is queued on its one stream, so the order of calls is the order of effects and
//! only reading results back waits. Kernels are CUDA C++ compiled for the card at hand on first use, see [`kernel`], and take one
//! plain struct each, declared once for both sides by [`kernel_params!`](crate::kernel_params).

mod ahead;
mod cache;
mod compile;
mod event;
mod gemm;
pub(crate) mod gradients;
mod graph;
mod kernel;
mod libraries;
pub(crate) mod memory;
mod params;
pub(crate) mod state;

pub use ahead::{compile_ahead, rehearse};
pub use compile::{Resources, compile, version as nvrtc_version};
pub use event::Event;
pub use gemm::{Gemm, Operand, gemm};
pub use graph::Graph;
pub use kernel::{Kernel, Program, Source, Variant, kernel};
pub use libraries::{Found, LibraryKind, find};
pub use memory::{DevicePtr, Staging};
pub use params::{Declarations, FieldLayout, KernelField, KernelParams};
pub use state::{Properties, cards, multiprocessors, properties, synchronize};

use crate::Error;

/// Puts an error code of the driver into words.
fn driver_error(what: &'static str) -> impl FnOnce(cudarc::driver::result::DriverError) -> Error {
    move |error| Error::Cuda {
        what,
        reason: error
            .error_string()
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_else(|_| format!("{error:?}")),
    }
}
