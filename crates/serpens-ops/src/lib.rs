//! The operations of selective state space models, one folder each.
pub mod adamw;
pub mod causal_conv1d;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod linear;
pub mod long_conv;
pub mod lti_kernel;
pub mod rms_norm;
pub mod sample;
pub mod selective_scan;
pub mod simd;
