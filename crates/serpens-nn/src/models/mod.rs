//! Whole models.

mod config;
mod lm;

pub use config::MambaLmConfig;
pub use lm::{LmState, MambaLm};
