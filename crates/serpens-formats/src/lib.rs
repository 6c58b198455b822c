//! Tensors in files. Knows no model: only names, shapes and bytes.
//!
//! [`safetensors`] reads one tensor at a time, straight to where it stays, and writes tensor by tensor, so that
//! neither way holds the whole twice.

mod error;
pub mod safetensors;

pub use error::{Error, Result};
