//! Causal attention of several heads: y = W_out attention(q, k, v) with (q, k, v) = W_in u.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Tensor, Var};
use smart_default::SmartDefault;

use super::heads::{Heads, HeadsPlan};
use super::{Mixer, MixerSettings, MixerState, Stepper, aligned};
use crate::layers::{Linear, RmsNorm, Sequence};
use crate::lora::is_adapted;
use crate::setting::{SIZE, check};
use crate::{Error, Recompute, Result, module};

/// Heads where their number is not said: each of 64 columns or the next larger even number that divides the width.
pub(super) fn usual_heads(width: usize) -> usize {
    let even = |heads: &usize| width.is_multiple_of(2 * heads);
    (1..=width / 64).rev().find(even).unwrap_or(1)
}

/// Configures attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionConfig {
    /// Heads of queries, which divide the model's width; one for each 64 columns of it, or more, if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Heads of keys and values, which divide those of queries; as many if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Whether queries and keys are turned by their positions ([`serpens_ops::rope`]); positions are not known to it
    /// otherwise.
    #[default = true]
    pub rope: bool,
    /// The base of the angles of that.
    #[default = 10_000.0]
    pub rope_base: f32,
    /// Tokens that a cache holds, which is what a sequence has at most where it is read with one: no limit for whole
    /// sequences, as in training.
    #[default = 2048]
    pub context: usize,
    /// Tokens that each sees at most, its own among them. The cache then holds as many, and sequences have no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Whether the two projections have a bias.
    pub bias: bool,
}

impl MixerSettings for AttentionConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        check("d_model", d_model as f64, SIZE)?;
        let heads = self.heads.unwrap_or_else(|| usual_heads(d_model));
        let kv_heads = self.kv_heads.unwrap_or(heads);
        divides("heads", heads, "d_model", d_model)?;
        divides("kv_heads", kv_heads, "heads", heads)?;
        let head = d_model / heads;
        let columns = (heads + 2 * kv_heads) * head;
        let heads = HeadsPlan {
            head,
            kv_heads,
            rope: self.rope.then_some(self.rope_base),
            context: self.context,
            window: self.window,
        };
        Ok(Box::new(Attention {
            in_proj: Linear::plan_with([d_model, columns], self.bias, 1.0),
            out_proj: Linear::plan_with([d_model, d_model], self.bias, output_divisor),
            heads: heads.plan()?,
            width: d_model,
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

/// Refuses a setting that does not divide another.
pub(super) fn divides(setting: &str, found: usize, other: &str, whole: usize) -> Result<()> {
    check(setting, found as f64, 1.0..=whole as f64)?;
    match whole % found {
        0 => Ok(()),
        _ => Err(Error::Uneven(format!(
            "{setting} = {found} does not divide {other} = {whole}"
        ))),
    }
}

#[derive(Clone, Debug)]
struct Attention {
    in_proj: Linear,  // q, k and v over each other
    out_proj: Linear, // (d_model, d_model)
    heads: Heads,
    width: usize,
}

module!(Attention { in_proj => "in_proj", out_proj => "out_proj" });

impl Attention {
    /// Columns of q, k and v.
    fn columns(&self) -> usize {
        self.in_proj.weight.shape().rows()
    }

    /// Where q ends, and k.
    fn ends(&self) -> [usize; 2] {
        [self.width, self.width + self.heads.kv_width()]
    }
}

impl Mixer for Attention {
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
        let (qkv, [q, k]) = (self.in_proj.forward(x)?, self.ends());
        let parts = [0..q, q..k, k..self.columns()].map(|columns| qkv.columns(columns));
        let [q, k, v] = parts;
        let y = self.heads.forward([q?, k?, v?], sequence, state)?;
        self.out_proj.forward(&y)
    }

    fn attention_flops(&self, length: usize) -> f64 {
        self.heads.flops(self.width, length)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        match recompute {
            Recompute::Layer => 0,
            Recompute::None | Recompute::Scan => self.columns() + self.width,
        }
    }

    fn fused(&self) -> Result<Option<Box<dyn Stepper>>> {
        match (is_adapted(self)?, self.in_proj.weight.device()) {
            (false, _) => Ok(Some(Box::new(self.clone()))),
            (true, Device::Cpu) => Ok(None),
            (true, Device::Cuda(_)) => Err(Error::Unsupported(
                "attention with an adapter is stepped on the processor alone: merge it",
            )),
        }
    }
}

impl Stepper for Attention {
    /// q, k and v, and what the queries find.
    fn room(&self) -> usize {
        aligned(self.columns()) + aligned(self.width)
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
        room: &mut Tensor,
    ) -> Result<()> {
        let (columns, [q, k]) = (self.columns(), self.ends());
        let room = room.view_mut()?.first_rows(slots);
        let (qkv, room) = room.split_columns(aligned(columns));
        let (mut qkv, mut o) = (qkv.columns(0..columns), room.columns(0..self.width));
        let of_slots = h.view().first_rows(slots);
        self.in_proj
            .step(of_slots, Some(norm.lowered()?), qkv.reborrow(), false)?;
        let parts = [0..q, q..k, k..columns].map(|columns| qkv.as_view().columns(columns));
        self.heads.step(parts, o.reborrow(), state)?;
        let of_slots = h.view_mut()?.first_rows(slots);
        self.out_proj.step(o.as_view(), None, of_slots, true)
    }
}
