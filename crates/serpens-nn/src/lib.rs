//! Layers and models: S6, S4D, the Mamba, H3 and plain mixers, the language model, its adaptation by matrices of low
//! rank, and checkpoints in the formats that models are published in.
//!
//! A configuration is a plain value that can be saved. Its `plan` makes the thing without values, which can be counted
//! and printed; [`Module::init`] fills it with those it starts with, [`checkpoint`] with those of a file. A layer's
//! `forward` reads a sequence of shape (batch, length, width), optionally from a state that it replaces; reading it in
//! chunks, or token by token with `step`, gives the same outputs.
//!
//! One mixer by itself, as Python's `Mamba(d_model=16)`, and a language model that reads a text and learns from it:
//!
//! ```
//! use serpens_core::{Device, Gradients, Tape, Tensor};
//! use serpens_nn::layers::Sequence;
//! use serpens_nn::mixers::{MambaConfig, MixerSettings};
//! use serpens_nn::{MambaLmConfig, Module, Result};
//! use serpens_ops::cross_entropy::cross_entropy;
//!
//! # fn main() -> Result<()> {
//! let device = Device::cpu();
//! let mamba = MambaConfig::default().init(16, device, 0)?; // of width 16, from seed 0
//! let x = Tensor::full([1, 8, 16], 0.1_f32, device)?; // (batch, length, d_model)
//! let y = mamba.forward(&x.into(), &Sequence::default(), None)?; // the same shape
//! assert_eq!(y.shape().to_string(), "(1, 8, 16)");
//!
//! let model = MambaLmConfig::new(16, 2, 256).init(device, 0)?; // d_model, layers, tokens
//! let ids: Vec<u32> = b"a state of fixed size".iter().copied().map(u32::from).collect();
//! let (inputs, targets) = (&ids[..20], &ids[1..]);
//! let tape = Tape::new();
//! let inputs = tape.constant(Tensor::from_slice([1, 20], inputs, device)?);
//! let logits = model.forward(&inputs, &Sequence::default(), None)?; // (batch, length, tokens)
//! let loss = cross_entropy(logits, &Tensor::from_slice([1, 20], targets, device)?)?.loss;
//! let mut gradients = Gradients::new();
//! tape.backward(&loss, 1.0, &mut gradients)?;
//! model.visit("", &mut |name, param| {
//!     assert!(gradients.get(param.id())?.is_some(), "{name}");
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Backbone`] is the model without its table and its head, for vectors from elsewhere; [`module!`] makes one module
//! of several; [`Module::set_frozen`] keeps a part of it as it is.

pub mod checkpoint;
mod error;
mod infer;
pub mod layers;
mod lora;
pub mod mixers;
mod models;
mod module;
mod param;
mod precision;
mod setting;
pub mod ssm;
mod start;

pub use error::{Error, ParameterFault, PatternFault, Result};
pub use infer::ToInfer;
pub use lora::LoraConfig;
pub use models::{
    Answer, Backbone, HeadConfig, LmSlots, LmState, LmStepper, MambaLm, MambaLmConfig, Pooling,
    Predictor, PredictorConfig, StateRow,
};
pub use module::{Module, Visit, VisitMut, join};
pub use param::Param;
pub use precision::{Precision, Recompute};
pub use start::{Start, StepSize};
