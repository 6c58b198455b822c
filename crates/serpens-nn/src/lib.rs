//! Layers and models: S6, S4D, the Mamba, H3 and plain blocks, the language model, and checkpoints in the Hugging Face layout.
//!
//! A configuration is a plain value that can be saved; its `init` makes the thing. A layer's `forward` reads a sequence of
//! shape (batch, length, width), optionally from a state that it replaces; reading it in chunks, or token by token with
//! `step`, gives the same outputs.

pub mod blocks;
pub mod checkpoint;
mod error;
pub mod init;
pub mod layers;
mod lm;
mod module;
mod precision;

pub use error::{Error, Result};
pub use lm::{LmState, MambaLm, MambaLmConfig};
pub use module::{Module, Param, join};
pub use precision::{Precision, Recompute, UnknownName};
