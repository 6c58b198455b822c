//! Tensors in files, and the settings beside them. Knows no model: only names, shapes and bytes.
//!
//! A format says which tensors a file holds and where; [`TensorFile`] brings one at a time straight to where it stays.
//! [`safetensors`] also writes tensor by tensor, so that neither way holds the whole twice.

mod error;
pub mod json;
pub mod safetensors;
mod tensor_file;

pub use error::{Error, Result};
pub use tensor_file::TensorFile;
