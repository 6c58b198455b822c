//! A feed-forward network of each token by itself: y = W_out (silu(z) ⊙ x) with (z, x) = W_in u, or W_out gelu(W_in u).

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::{gelu, silu_mul};
use smart_default::SmartDefault;

use super::{Mixer, MixerSettings, MixerState};
use crate::layers::{Linear, Sequence};
use crate::setting::{SIZE, check};
use crate::{Error, Recompute, Result, module};

/// The inner width is a multiple of this, so that products have no ragged edges.
const MULTIPLE: usize = 64;

/// What lies between the two products of a feed-forward network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// silu(z) ⊙ x, of two products.
    #[default]
    Swiglu,
    /// GELU as [`serpens_ops::elementwise`] has it.
    Gelu,
}

/// Configures a feed-forward network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// What lies between the two products.
    pub activation: Activation,
    /// Inner width over model width, before it is rounded up to a multiple of 64: 8/3 for SwiGLU and 4 for GELU, which
    /// have as many weights so, if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expand: Option<f32>,
    /// Whether the two projections have a bias.
    pub bias: bool,
}

impl MixerSettings for MlpConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        check("d_model", d_model as f64, SIZE)?;
        let (products, usual) = match self.activation {
            Activation::Swiglu => (2, 8.0 / 3.0),
            Activation::Gelu => (1, 4.0),
        };
        let expand = self.expand.map_or(usual, f64::from);
        check("expand", expand, 0.0..=f64::MAX)?;
        // To the nearest first: 8/3 of a multiple of three is a whole number. What exceeds the address space is told
        // when memory is asked for.
        let width = (expand * d_model as f64).round().clamp(1.0, 1e18) as usize;
        let width = width.next_multiple_of(MULTIPLE);
        let outputs = width.saturating_mul(products);
        Ok(Box::new(Mlp {
            in_proj: Linear::plan_with([d_model, outputs], self.bias, 1.0),
            out_proj: Linear::plan_with([width, d_model], self.bias, output_divisor),
            activation: self.activation,
        }))
    }

    fn remembers(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
struct Mlp {
    in_proj: Linear,  // z and x over each other for SwiGLU
    out_proj: Linear, // (d_model, width)
    activation: Activation,
}

module!(Mlp { in_proj => "in_proj", out_proj => "out_proj" });

impl Mixer for Mlp {
    /// None.
    fn initial_state(&self, _batch: usize, _device: Device) -> Result<MixerState> {
        Ok(MixerState::new())
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let found = state.as_ref().map_or(0, |state| state.len());
        if found > 0 {
            return Err(Error::state("tensors", 0, found));
        }
        let (inputs, activation) = (self.in_proj.forward(x)?, self.activation);
        let y = match sequence.recompute {
            Recompute::Scan if state.is_none() => {
                let [y] = sequence.read_twice("mlp", &[&inputs], move |inputs, _| {
                    Ok([activation.of(&inputs[0])?])
                })?;
                y
            }
            _ => activation.of(&inputs)?,
        };
        self.out_proj.forward(&y)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        match recompute {
            Recompute::Layer => 0,
            Recompute::None | Recompute::Scan => self.in_proj.weight.shape().rows(),
        }
    }
}

impl Activation {
    /// What the second product takes, from what the first gives.
    fn of(self, inputs: &Var) -> Result<Var> {
        match self {
            Activation::Swiglu => {
                let width = inputs.shape().cols() / 2;
                let (z, x) = (inputs.columns(0..width)?, inputs.columns(width..2 * width)?);
                Ok(silu_mul(&x, &z)?)
            }
            Activation::Gelu => Ok(gelu(inputs)?),
        }
    }
}
