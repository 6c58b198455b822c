//! The layers that blocks and models are made of.

mod conv;
mod embedding;
mod linear;
mod norm;
mod s4d;
mod selective_ssm;
mod sequence;

pub use conv::{CausalConv1d, CausalConv1dConfig};
pub use embedding::{Embedding, EmbeddingConfig};
pub use linear::{Linear, LinearConfig};
pub use norm::{RmsNorm, RmsNormConfig};
pub use s4d::{S4d, S4dConfig};
pub use selective_ssm::{AInit, DtRank, SelectionTrace, SelectiveSsm, SelectiveSsmConfig};
pub use sequence::{Inner, InnerConfig, Sequence};
