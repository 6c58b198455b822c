//! The layers that mixers and models are made of.

mod conv;
mod embedding;
mod linear;
mod norm;
mod sequence;

pub use conv::{CausalConv1d, CausalConv1dConfig};
pub use embedding::Embedding;
pub use linear::{Linear, LinearConfig};
pub use norm::RmsNorm;
pub use sequence::Sequence;
