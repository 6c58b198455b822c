//! NVIDIA GPUs: the driver, NVRTC and cuBLASLt, opened at run time, so that one binary runs with and without them.
//!
//! Everything that touches a device's memory is queued on the thread's current stream of it, see [`Stream`]: the
//! default one unless told otherwise, so that the order of calls is the order of effects and only reading results back
//! waits. Kernels are CUDA C++ compiled for the card at hand on first use, see [`kernel`], and take one plain struct
//! each, declared once for both sides by [`kernel_params!`](crate::kernel_params).

mod gemm;
mod graph;
mod staging;
#[cfg(test)]
mod tests;

pub use crate::driver::{DevicePtr, Event, Properties, Stream, cards, find, properties};
pub use crate::library::LibraryKind;
pub use crate::program::{
    Declarations, FieldLayout, Kernel, KernelParams, Program, Resources, Source, compile_ahead,
    kernel, nvrtc_version, rehearse,
};
pub use gemm::{Gemm, Operand, gemm};
pub use graph::Graph;
pub use staging::Staging;
