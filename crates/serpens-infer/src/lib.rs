//! Running language models: drawing tokens, sequences as values, many prompts at once, and how probable given texts
//! are.
//!
//! - [`generate`]: the tokens of many [`Request`]s, prompts packed and slots stepped together; a request's tokens do
//!   not depend on the others;
//! - [`Decoder`]: the next token of many sequences, again and again, for drawing of one's own;
//! - [`SequenceState`]: a sequence that was read, to be kept, sent to another thread, gone on from several times,
//!   saved;
//! - [`score`]: log-probabilities of continuations; what items begin with in common is read once;
//! - [`Sampler`]: from logits to a token; [`TextStream`]: from tokens to text, up to a stop string.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use serpens_core::Device;
//! use serpens_infer::{Batching, Error, Item, Request, SequenceState, Told, generate, score};
//! use serpens_nn::{MambaLmConfig, Module};
//!
//! # fn main() -> serpens_infer::Result<()> {
//! let model = MambaLmConfig::new(16, 2, 50).init(Device::cpu(), 0)?; // d_model, layers, tokens
//! let request = |prompt: &[u32]| Request { prompt: prompt.to_vec(), tokens: 5, ..Request::default() };
//! let mut drawn = [Vec::new(), Vec::new()];
//! generate(&model, [request(&[1, 2, 3]), request(&[7])], Batching::default(), |of, told| {
//!     if let Told::Token(token) = told {
//!         drawn[of.request].push(token.token);
//!     }
//!     Ok::<_, Error>(ControlFlow::Continue(()))
//! })?;
//! assert_eq!(drawn.map(|tokens| tokens.len()), [5, 5]);
//!
//! // What was read is a value, and what goes on from it reads it no more.
//! let read = SequenceState::new(&model)?.read(&model, &[1, 2, 3])?;
//! let choices = [[4, 5], [6, 7]].map(|choice| Item { context: vec![], continuation: choice.to_vec() });
//! let scores = score(&model, Some(&read), &choices, &mut |_| ())?;
//! assert!(scores.items.iter().all(|score| score.log_prob() < 0.0));
//! # Ok(())
//! # }
//! ```

mod decoder;
mod error;
mod generate;
mod pass;
mod sampler;
mod score;
mod state;
#[cfg(test)]
mod tests;
mod text;

pub use decoder::Decoder;
pub use error::{Error, Result};
pub use generate::{Batching, Drawn, End, LogProbs, Of, Request, Told, generate, most_slots};
pub use sampler::{Sampler, argmax, log_sum_exp, most_probable};
pub use score::{Item, Score, Scores, TokenScore, score};
pub use serpens_ops::sampling::{BadOption, Broken, History, SampleOptions, WINDOW};
pub use state::{SequenceState, fingerprint};
pub use text::{TextStream, encode_pair, encode_prompt};
