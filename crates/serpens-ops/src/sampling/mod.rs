//! From logits to a token, the same one on the processor and on a GPU.
//!
//! In this order, for the logit x of each token, in f32, every operation rounded by itself:
//! 1. the bias: x + b, of the tokens that have one (several of one token are added up first, in their order);
//! 2. the repetition penalty θ of Hugging Face: x / θ where x > 0 and x θ elsewhere, of the [`WINDOW`] tokens before,
//!    those of the prompt among them; each once, however often it is there;
//! 3. the presence and frequency penalties of OpenAI: (x − presence) − count · frequency, of tokens that were drawn
//!    count > 0 times, those of the prompt not among them;
//! 4. the temperature T: p ∝ exp(x / T), of T = 0 the largest x alone, the first of equals;
//! 5. top-k keeps the k largest x; top-p, going down from the largest x, the fewest tokens whose probabilities, among
//!    those kept so far, reach p; both take the lower token of equals first; min-p drops tokens below min_p times the
//!    largest probability;
//! 6. one of the rest is drawn by its probability, with a number of 64 bits from the sequence's random stream.
//!
//! # Exactly
//! The largest x is m. A token's weight is w = 2^((x − m) · log₂e / T), of fused multiply-adds in a stated order
//! ([`simd::exp2_product`](crate::simd::exp2_product), with log₂e / T rounded to f64 once and cut in two floats), and
//! in fixed point q = w · 2⁴⁰, rounded to the nearest integer, of two the even one. Sums of q are exact in any order,
//! and so is all that is decided by them:
//!
//! - top-p: the sum reaches ⌈P · total / 2⁶⁴⌉ with P = ⌊p · 2⁶⁴⌋, which is p itself from 2⁻⁴⁰ on, and at least 1;
//! - min-p: q ≥ min_p · 2⁴⁰, rounded as q is;
//! - the draw of a number u: the first token in the order of tokens with which the sum of q exceeds ⌊u · total / 2⁶⁴⌋.
//!
//! So for the same logits, options, history and number there is one token, whatever the instruction set, the card, the
//! number of threads or of slots. Probabilities are off from those of f32 logits by this much: w's relative error is
//! below 1.1·10⁻⁷ + (m − x) / T · 2⁻²⁴ (a last place of x − m), q's rounding adds 2⁻⁴¹, and the 64 bits of u 2⁻⁶⁴ of
//! the total. With that of the total it is less than 4·10⁻⁶ of a probability, beside 2⁻⁴¹ of the largest for each
//! token; tokens below 2⁻⁴¹ of the largest are not drawn.
//!
//! # Shapes
//! Logits (slots, vocabulary), f32, on a GPU f32 or bf16; the vocabulary has fewer than 2²⁴ tokens, on a GPU at most
//! [`MOST_TOKENS`]. Each slot has its own options, history and random stream. A slot whose logits are broken (NaN, +∞,
//! or nothing but −∞) fails alone: see [`Broken`].

pub mod cpu;
mod cuda;
mod operands;
#[cfg(test)]
pub(crate) mod tests;

pub use cuda::{DeviceSampler, MOST_TOKENS};
pub use operands::{BadOption, Broken, History, SampleOptions, WINDOW, token};
