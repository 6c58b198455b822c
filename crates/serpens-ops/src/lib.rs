//! The operations of selective state space models, one folder each: the contract and the backward rule in `mod.rs`, the
//! kernels for the processor in `cpu`, those for NVIDIA GPUs in `.cu` files with what launches them in `cuda`, and in
//! `tests` the definition in f64 (`reference.rs`) with what is held against it. `cpu` and `cuda` are one file each, or
//! a folder where an operation needs several.
//!
//! Each operation comes twice: on [`serpens_core::Var`], recorded on a tape, and as a kernel on plain slices in its
//! `cpu` module, for programs with tensors of their own. A loss of one's own is made of what is in [`elementwise`],
//! [`reduce`] and [`softmax`]:
//!
//! ```
//! use serpens_core::{Device, Gradients, ParamId, Result, Tape, Tensor, Var};
//! use serpens_ops::elementwise::{mul, scale, tanh};
//! use serpens_ops::linear::{ProductPrecision, linear};
//! use serpens_ops::reduce::{mean, sum_last};
//! use serpens_ops::softmax::log_softmax;
//!
//! # fn main() -> Result<()> {
//! let cpu = Device::cpu();
//! let (id, weight) = (ParamId::fresh(), Tensor::from_slice([2, 3], &[0.1_f32, -0.2, 0.3, 0.0, 0.5, -0.4], cpu)?);
//! let tape = Tape::new();
//! let x = tape.constant(Tensor::from_slice([1, 3], &[1.0_f32, 2.0, 3.0], cpu)?); // (rows, 3)
//! let weight = Var::param(id, weight); // (2, 3)
//! let target: Var = Tensor::from_slice([1, 2], &[0.9_f32, 0.1], cpu)?.into();
//!
//! // −mean over rows of Σ_c target_c ln p_c
//! let logits = linear(&tanh(&x)?, &weight, None, ProductPrecision::Full)?;
//! let loss = scale(&mean(&sum_last(&mul(&target, &log_softmax(&logits)?)?)?)?, -1.0)?;
//! let mut gradients = Gradients::new();
//! tape.backward(&loss, 1.0, &mut gradients)?;
//! let gradient = gradients.get(id)?.expect("the loss depends on it"); // (2, 3)
//! let sums: f32 = gradient.as_slice::<f32>()?.iter().sum();
//! assert!(sums.abs() < 1e-6, "what one logit gains the other loses");
//! # Ok(())
//! # }
//! ```

pub mod attention;
pub mod causal_conv1d;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod linear;
pub mod long_conv;
pub mod lstm;
pub mod lti_kernel;
pub mod mamba_layers;
pub mod offset_scale;
pub mod optimizer;
pub mod pooling;
pub mod positions;
pub mod quantized_linear;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod sampling;
pub mod selective_scan;
mod shared;
pub mod simd;
pub mod softmax;
pub mod swap_axes;

use shared::{DeviceStarts, check, fold, record};
pub use shared::{Layout, Role, Starts, Team};
