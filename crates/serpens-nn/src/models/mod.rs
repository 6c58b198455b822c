//! Whole models.

mod backbone;
mod config;
mod lm;

pub use backbone::{Backbone, LmState, StateRow};
pub use config::MambaLmConfig;
pub use lm::MambaLm;
