//! Layers and models: S6, S4D, the Mamba, H3 and plain mixers, the language model, and checkpoints in the Hugging
//! Face layout.
//!
//! A configuration is a plain value that can be saved. Its `plan` makes the thing without values, which can be
//! counted and printed; [`Module::init`] fills it with those it starts with, [`checkpoint::load`] with those of a
//! file. A layer's `forward` reads a sequence of shape (batch, length, width), optionally from a state that it
//! replaces; reading it in chunks, or token by token with `step`, gives the same outputs.

pub mod checkpoint;
mod error;
mod kinds;
pub mod layers;
pub mod mixers;
mod models;
mod module;
mod param;
mod precision;
pub mod ssm;
mod start;

pub use error::{Error, Result};
pub use models::{LmState, MambaLm, MambaLmConfig};
pub use module::{Module, Visit, VisitMut, join};
pub use param::Param;
pub use precision::{Precision, Recompute, UnknownName};
pub use start::{Start, StepSize};
