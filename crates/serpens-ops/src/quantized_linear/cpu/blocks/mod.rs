//! Values between f32 and GGUF's blocks: exactly as the `gguf` package does it, in loops over whole slices.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, decoder};
pub use encode::{Encoder, encoder};
