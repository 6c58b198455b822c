//! Whole models.

mod backbone;
mod config;
mod lm;
mod pattern;
mod predictor;
mod stepper;

pub(crate) use backbone::layers_of;
pub use backbone::{Backbone, LmState, StateRow};
pub use config::MambaLmConfig;
pub use lm::MambaLm;
pub use predictor::{Answer, HeadConfig, Pooling, Predictor, PredictorConfig};
pub use stepper::{LmSlots, LmStepper};
