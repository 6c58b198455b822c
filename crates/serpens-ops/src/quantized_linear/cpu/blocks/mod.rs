//! Values between f32 and GGUF's blocks, in loops over whole slices: Q8_0 and Q4_0 exactly as the `gguf` package makes
//! them, the kinds of 256 values with a search of our own.

mod decode;
mod encode;
mod encode_q4_k;
mod encode_q6_k;
mod search;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, decoder};
pub use encode::{Encoder, encode, encoder};
