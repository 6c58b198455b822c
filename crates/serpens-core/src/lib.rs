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
//!
//! An operation computes its outputs and records how to go back; `serpens-ops` has those of Mamba, and another is
//! written like this:
//!
//! ```
//! use serpens_core::tape::{Backward, BackwardContext, record, tracked};
//! use serpens_core::{Device, Gradients, Result, Tape, Tensor, Var};
//!
//! /// Σ x² of f32 values on the processor.
//! fn sum_of_squares(x: &Var) -> Result<Var> {
//!     let values = x.tensor()?.as_slice::<f32>()?;
//!     let y = Tensor::from_slice([1], &[values.iter().map(|x| x * x).sum::<f32>()], Device::cpu())?;
//!     let operation = tracked(&[Some(x)]).then(|| Box::new(SumOfSquares(x.detach())) as Box<dyn Backward>);
//!     let [y] = record("sum_of_squares", &[Some(x)], [y], operation)?;
//!     Ok(y)
//! }
//!
//! struct SumOfSquares(Var); // what its backward needs
//!
//! impl Backward for SumOfSquares {
//!     fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
//!         let Some(dy) = context.take_output(0) else { return Ok(()) };
//!         let (dy, mut dx) = (dy.as_slice::<f32>()?[0], self.0.into_tensor()?);
//!         dx.make_mut::<f32>()?.iter_mut().for_each(|x| *x *= 2.0 * dy); // a copy, where x is still held
//!         context.add(0, dx)
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let tape = Tape::new();
//! let x = tape.leaf(Tensor::from_slice([2, 2], &[1.0_f32, 2.0, 3.0, 4.0], Device::cpu())?);
//! let y = sum_of_squares(&x)?;
//! tape.backward(&y, 1.0, &mut Gradients::new())?;
//! let gradient = tape.gradient(&x)?.expect("y depends on it");
//! assert_eq!(gradient.to_vec::<f32>()?, [2.0, 4.0, 6.0, 8.0]);
//! assert_eq!(format!("{y:?}"), "Var f32 (1) on cpu, tracked");
//! # Ok(())
//! # }
//! ```

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
pub use error::{
    Error, Refusal, Result, Unusable, expect_count, expect_device, expect_dtype, expect_multiple,
    expect_range,
};
pub use gradcheck::{GradCheck, GradCheckOptions, gradcheck};
pub use half::bf16;
use library::LibraryKind;
pub use shape::{MAX_RANK, Shape};
pub use tape::{Gradients, ParamId, Tape, Var};
pub use tensor::{Mat, MatMut, Matrix, MemoryStats, Tensor, View, ViewMut};
