//! The gated attention unit: y = W_out (u ⊙ attention(q, k, v)) with (u, v, z) = silu(W_in x), q and k the heads that
//! factors and offsets make of the few columns of z.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Tensor, Var};
use serpens_ops::elementwise::{mul, silu};
use serpens_ops::offset_scale::offset_scale;
use smart_default::SmartDefault;

use super::attention::{divides, usual_heads};
use super::heads::{Heads, HeadsPlan};
use super::step::add_mixed;
use super::{Mixer, MixerSettings, MixerState, Stepper};
use crate::layers::{Linear, RmsNorm, Sequence};
use crate::setting::{SIZE, check};
use crate::{Param, Recompute, Result, Start, module};

/// Configures a gated attention unit (Hua et al., arXiv 2202.10447), with rope. Weights are a softmax, which does not
/// depend on the length, where the paper squares what is positive; and there are several heads, each with factors and
/// offsets of its own, where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct GauConfig {
    /// Inner width over model width.
    #[default = 2]
    pub expand: usize,
    /// Heads, which divide the inner width; one for each 64 columns of it, or more, if it is left out. z has a head's
    /// columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Tokens that a cache holds, as [`AttentionConfig`](super::AttentionConfig) has it.
    #[default = 2048]
    pub context: usize,
    /// Tokens that each sees at most, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
}

impl MixerSettings for GauConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        check("d_model", d_model as f64, SIZE)?;
        check("expand", self.expand as f64, SIZE)?;
        let width = d_model.saturating_mul(self.expand);
        let count = self.heads.unwrap_or_else(|| usual_heads(width));
        divides("heads", count, "the inner width", width)?;
        let head = width / count;
        let columns = width.saturating_mul(2).saturating_add(head);
        let factors = |start| Param::new([width], Start::Constant(start)).without_decay();
        let heads = HeadsPlan {
            head,
            kv_heads: count,
            rope: Some(10_000.0),
            context: self.context,
            window: self.window,
        };
        Ok(Box::new(Gau {
            in_proj: Linear::plan_with([d_model, columns], false, 1.0),
            q_scale: factors(1.0),
            q_offset: factors(0.0),
            k_scale: factors(1.0),
            k_offset: factors(0.0),
            out_proj: Linear::plan_with([width, d_model], false, output_divisor),
            heads: heads.plan()?,
            width,
        }))
    }

    fn caches(&self) -> bool {
        true
    }

    fn reverses(&self) -> bool {
        false
    }

    fn context(&self) -> Option<usize> {
        self.window.is_none().then_some(self.context)
    }
}

#[derive(Clone, Debug)]
struct Gau {
    in_proj: Linear, // u, v and z over each other
    q_scale: Param,
    q_offset: Param,
    k_scale: Param,
    k_offset: Param,
    out_proj: Linear, // (d_model, width)
    heads: Heads,
    width: usize,
}

module!(Gau {
    in_proj => "in_proj",
    q_scale => "q_scale",
    q_offset => "q_offset",
    k_scale => "k_scale",
    k_offset => "k_offset",
    out_proj => "out_proj",
});

impl Gau {
    /// u, q, k and v.
    fn inputs(&self, x: &Var) -> Result<[Var; 4]> {
        let (inputs, width) = (silu(&self.in_proj.forward(x)?)?, self.width);
        let z = inputs.columns(2 * width..inputs.shape().cols())?;
        let heads = |scale: &Param, offset: &Param| offset_scale(&z, &scale.var()?, &offset.var()?);
        Ok([
            inputs.columns(0..width)?,
            heads(&self.q_scale, &self.q_offset)?,
            heads(&self.k_scale, &self.k_offset)?,
            inputs.columns(width..2 * width)?,
        ])
    }
}

impl Mixer for Gau {
    fn initial_state(&self, batch: usize, device: Device) -> Result<MixerState> {
        let dtype = self.in_proj.weight.precision().activations();
        self.heads.initial_state(batch, dtype, device)
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let [u, q, k, v] = self.inputs(x)?;
        let y = self.heads.forward([q, k, v], sequence, state)?;
        self.out_proj.forward(&mul(&u, &y)?)
    }

    fn attention_flops(&self, length: usize) -> f64 {
        self.heads.flops(self.width, length)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        match recompute {
            Recompute::Layer => 0,
            Recompute::None | Recompute::Scan => 5 * self.width,
        }
    }

    fn fused(&self) -> Result<Option<Box<dyn Stepper>>> {
        Ok(Some(Box::new(self.clone())))
    }
}

/// By the operations of the forward pass but for attention, whose caches stay in place.
impl Stepper for Gau {
    fn room(&self) -> usize {
        0
    }

    fn left(&self, state: &[Tensor]) -> Result<Option<usize>> {
        self.heads.left(state)
    }

    fn step(
        &self,
        norm: &RmsNorm,
        slots: usize,
        h: &mut Tensor,
        state: &mut [Tensor],
        _: &mut Tensor,
    ) -> Result<()> {
        add_mixed(norm, slots, h, |x| {
            let [u, q, k, v] = self.inputs(x)?;
            let mut o = Tensor::empty([slots, self.width], q.dtype(), q.device())?;
            let token = [q.view(), k.view(), v.view()];
            self.heads.step(token, o.view_mut()?, state)?;
            self.out_proj.forward(&mul(&u, &o.into())?)
        })
    }
}
