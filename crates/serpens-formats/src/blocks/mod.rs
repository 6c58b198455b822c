//! Values between f32 and what files store: exactly as NumPy and the `gguf` package do it, in loops over whole slices.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(crate) use decode::{decoder, each};
pub(crate) use encode::{encode, encoder};
