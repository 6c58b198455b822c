//! The layers that mixers and models are made of.

mod conv;
mod embedding;
mod linear;
mod norm;
mod positions;
mod sequence;

pub use conv::CausalConv1d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::RmsNorm;
pub use positions::Positions;
pub use sequence::{Sequence, Trace};
