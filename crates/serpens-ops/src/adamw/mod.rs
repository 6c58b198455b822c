//! AdamW: Adam with decoupled weight decay, and the norm that gradients are clipped by.
//!
//! With g scaled by `clip`, at step t = 1, 2, …:
//!
//! ```text
//! p ← p (1 - lr · weight_decay)
//! m ← β1 m + (1 - β1) g        v ← β2 v + (1 - β2) g²
//! p ← p - lr · (m / (1 - β1^t)) / (√(v / (1 - β2^t)) + eps)
//! ```
//!
//! Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101. All values are f32; on a GPU a
//! step can also write the bf16 shadow of a parameter, which the forward pass reads.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
mod tests;
