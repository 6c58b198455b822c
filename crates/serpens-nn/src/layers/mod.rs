//! The layers that mixers and models are made of.

mod conv;
mod embedding;
mod linear;
mod norm;
mod sequence;

pub use conv::{CausalConv1d, CausalConv1dConfig};
pub use embedding::{Embedding, EmbeddingConfig};
pub use linear::{Linear, LinearConfig};
pub use norm::{RmsNorm, RmsNormConfig};
pub use sequence::Sequence;
