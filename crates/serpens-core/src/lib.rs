//! Tensors, memory pools and the gradient tape under Serpens. This crate knows no model.
//!
//! - [`Tensor`]: contiguous, row-major, reference-counted values on a [`Device`], from a pool that a training loop
//!   stops allocating from after its first steps.
//! - [`tape`]: reverse-mode differentiation over fused operations, open to a user's own through [`tape::Backward`].
//! - [`gradcheck`]: holds an operation's backward against finite differences.
//! - [`cuda`]: NVIDIA GPUs, whose libraries are opened at run time.
//! - [`files`]: files that appear complete or not at all.
//! - [`View`], [`ViewMut`]: strided matrices on any device, so that a range of columns is never copied; [`Mat`],
//!   [`MatMut`]: those of f32 on the processor, as its kernels take them.

pub mod cuda;
mod device;
mod driver;
mod dtype;
mod error;
pub mod files;
mod gradcheck;
mod library;
mod program;
mod shape;
pub mod tape;
mod tensor;

pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Refusal, Result, Unusable, expect_device, expect_dtype};
pub use gradcheck::{GradCheck, GradCheckOptions, gradcheck};
pub use half::bf16;
use library::LibraryKind;
pub use shape::{MAX_RANK, Shape};
pub use tape::{Gradients, ParamId, Tape, Var};
pub use tensor::{Mat, MatMut, Matrix, MemoryStats, Tensor, View, ViewMut};
