//! One token of one sequence through many layers of Mamba, by one kernel of a GPU.
//!
//! For each layer in its turn, with h (d_model) the residual stream:
//!
//! - x, z = W_in norm(h), d_inner values each; u = silu(conv(x)), whose last inputs move on;
//! - low, B, C = W_x u, of R, N and N values; Δ = softplus(W_Δ low + b_Δ);
//! - s = exp(Δ A) s + Δ B u, the state; y = (<C, s> + D u) silu(z); h = h + W_out y.
//!
//! W_in, W_x, W_Δ and W_out are bf16, all else is f32. norm(h), before its divisor, and y are rounded to bf16 where
//! they are multiplied. W_in and W_out may be in blocks (Q8_0, Q4_0) instead: then norm(h), before its divisor, and
//! y, rounded to bf16, become integers of 8 bits as [`crate::quantized_linear`] says. Every other value and all
//! sums are f32. The same layers one operation at a time are [`crate::linear::step`],
//! [`crate::causal_conv1d::step_of_product`] and [`crate::selective_scan::step`], which other devices, types and
//! shapes take.

mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::{DType, Result, Tensor, View, ViewMut};

use crate::linear::{Norm, Weight};

const OP: &str = "mamba_layers";

/// A layer's operands, for R the rank of Δ, N the states of a channel and W the width of the convolution.
pub struct MambaLayer<'a> {
    /// (d_model) of f32.
    pub norm: Norm<'a>,
    /// W_in: (2 · d_inner, d_model), x before z.
    pub in_proj: Weight<'a>,
    /// (d_inner, W).
    pub conv: View<'a>,
    /// (d_inner).
    pub conv_bias: Option<View<'a>>,
    /// W_x: (R + 2 N, d_inner).
    pub x_proj: View<'a>,
    /// W_Δ: (d_inner, R).
    pub dt_proj: View<'a>,
    /// b_Δ: (d_inner).
    pub dt_bias: View<'a>,
    /// A: (d_inner, N).
    pub a: View<'a>,
    /// D: (d_inner).
    pub d: View<'a>,
    /// W_out: (d_model, d_inner).
    pub out_proj: Weight<'a>,
    /// The convolution's last inputs: (1, (W - 1) · d_inner).
    pub past: ViewMut<'a>,
    /// s: (1, d_inner · N).
    pub state: ViewMut<'a>,
}

/// The kernel for a model's layers, and memory of their device in which its blocks tell each other what they have
/// computed. Steps with one exchange are in one stream, or each waits for the one before it: side by side they would
/// wait for ever.
pub struct Exchange {
    plan: cuda::LayersPlan,
    words: Tensor,
}

impl Exchange {
    /// For these layers; none where there is no kernel for them: it is for bf16 matrices of the shapes of published
    /// models, W_in and W_out in Q8_0 or Q4_0 too, up to 64 layers that are alike, on cards of compute capability 9 and
    /// later with 128 multiprocessors.
    ///
    /// # Errors
    /// Memory; a device that cannot be used.
    pub fn new(layers: &[MambaLayer<'_>]) -> Result<Option<Self>> {
        let Some(plan) = cuda::plan(layers)? else {
            return Ok(None);
        };
        let device = layers[0].x_proj.device();
        let words = Tensor::zeros([plan.words(), 2], DType::U32, device)?;
        Ok(Some(Self { plan, words }))
    }
}

/// Takes a token's h (1, d_model) through the layers, whose states move on.
///
/// # Errors
/// Operands that do not fit each other or the exchange; whatever the device fails with.
pub fn step(layers: &[MambaLayer<'_>], h: ViewMut<'_>, exchange: &mut Exchange) -> Result<()> {
    cuda::step(layers, h, &exchange.plan, &mut exchange.words)
}
