//! The safetensors format: a header with the name, type, shape and place of every tensor, then their bytes.

mod header;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{open, read_tensors};
pub use write::{write, write_tensors};
