//! The operations of selective state space models, one folder each: the contract and the backward rule in `mod.rs`, the
//! kernels for the processor in `cpu`, those for NVIDIA GPUs in `.cu` files with what launches them in `cuda`, and in
//! `tests` the definition in f64 (`reference.rs`) with what is held against it. `cpu` and `cuda` are one file each, or a
//! folder where an operation needs several.
//!
//! Each operation comes twice: on [`serpens_core::Var`], recorded on a tape, and as a kernel on plain slices in its
//! `cpu` module, for programs with tensors of their own.

pub mod adamw;
pub mod causal_conv1d;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod linear;
pub mod long_conv;
pub mod lti_kernel;
pub mod rms_norm;
pub mod sample;
pub mod selective_scan;
mod shared;
pub mod simd;

use shared::{DeviceStarts, check, fold, record};
pub use shared::{Layout, Role, Starts};
