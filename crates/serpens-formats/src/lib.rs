//! Tensors in files. Knows no model: only names, shapes and bytes.
//!
//! [`safetensors`] reads one tensor at a time from a mapped file straight to a device, and writes tensor by tensor, so that
//! neither way holds the whole twice. [`write_atomically`] makes any file appear complete or not at all.

mod error;
mod files;
pub mod safetensors;

pub use error::{Error, Result};
pub use files::write_atomically;
