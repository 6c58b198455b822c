//! Serpens: selective state space models (Mamba) in Rust.
//!
//! The crates underneath, for programs of your own: [`core`] (tensors and the gradient tape), [`ops`] (the operations),
//! [`nn`] (layers, models, checkpoints), [`formats`] (tensors in files), [`data`] and [`train`]. The rest of this crate
//! is the command.
//!
//! A Mamba mixer on a sequence, and the same sequence token by token:
//!
//! ```
//! use serpens::core::{Device, Tensor};
//! use serpens::nn::Module;
//! use serpens::nn::layers::Sequence;
//! use serpens::nn::mixers::{MambaConfig, MixerSettings};
//!
//! # fn main() -> serpens::nn::Result<()> {
//! let mixer = MambaConfig::default().plan(8, 1.0)?.init(Device::cpu(), 0)?;
//!
//! let x = Tensor::full([1, 3, 8], 0.5_f32, Device::cpu())?; // (batch, length, d_model)
//! let whole = mixer.forward(&x.into(), &Sequence::default(), None)?;
//!
//! let mut state = mixer.initial_state(1, Device::cpu())?;
//! let token = Tensor::full([1, 8], 0.5_f32, Device::cpu())?;
//! for t in 0..3 {
//!     let y = mixer.step(&token.clone().into(), &mut state)?;
//!     let (step, row) = (y.mat()?, whole.mat()?);
//!     assert!((step.row(0)[0] - row.row(t)[0]).abs() < 1e-6);
//! }
//! # Ok(())
//! # }
//! ```

pub mod cli;
mod commands;
mod compute;
mod error;
mod evaluation;
pub mod hub;
mod machine;
mod output;
mod progress;
mod prompt;
pub mod recipe;
pub mod refusal;
mod runs;
mod stop;
pub mod tasks;

pub use commands::run;
pub use error::{Error, Result};
pub use output::tell;
pub use {
    serpens_core as core, serpens_data as data, serpens_formats as formats, serpens_infer as infer,
    serpens_nn as nn, serpens_ops as ops, serpens_train as train,
};

/// The README's Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
