//! A step of S6 with a real A, whose Δ, B and C all depend on the token.

use std::ops::Range;

use serpens_core::{Tensor, View, ViewMut};
use serpens_ops::linear::{self, Weight};
use serpens_ops::rms_norm;
use serpens_ops::selective_scan::{StepDelta, StepOperands, step};

use crate::layers::{Linear, RmsNorm};
use crate::mixers::aligned;
use crate::{Param, Result};

/// [`SelectiveSsm`](super::SelectiveSsm) lowered for steps, see [`Ssm::selective_step`](super::Ssm::selective_step).
pub struct SelectiveStep {
    pub(super) x_proj: Linear,
    pub(super) dt: Param, // (d_inner, rank)
    /// Of what Δ is made of, of B and of C.
    pub(super) norms: [Option<RmsNorm>; 3],
    pub(super) dt_bias: Param,
    /// -exp(A_log): (d_inner, N).
    pub(super) a: Tensor,
    pub(super) d: Param,
    pub(super) zero_order_hold: bool,
}

/// What a [`SelectiveStep`] reads beside the token, see [`serpens_ops::mamba_layers::MambaLayer`].
pub(crate) struct SelectiveOperands<'a> {
    pub(crate) x_proj: View<'a>,
    pub(crate) dt_proj: View<'a>,
    pub(crate) dt_bias: View<'a>,
    pub(crate) a: View<'a>,
    pub(crate) d: View<'a>,
}

impl SelectiveStep {
    /// Columns of what W_x makes of a token.
    fn projected(&self) -> usize {
        self.dt.shape().cols() + 2 * self.a.shape().cols()
    }

    /// Whether nothing is normalised on the way, which the kernels of a GPU do not do.
    pub(crate) fn is_plain(&self) -> bool {
        self.norms.iter().all(Option::is_none)
    }

    /// What it reads beside the token; none where it is in blocks, or normalised on the way, or its input is held.
    pub(crate) fn operands(&self) -> Result<Option<SelectiveOperands<'_>>> {
        let weights = (self.x_proj.unbiased()?, self.dt.weight()?);
        let plain = self.is_plain() && !self.zero_order_hold;
        let ((Some(Weight::Plain(x_proj)), Weight::Plain(dt_proj)), true) = (weights, plain) else {
            return Ok(None);
        };
        Ok(Some(SelectiveOperands {
            x_proj,
            dt_proj,
            dt_bias: self.dt_bias.value()?.view(),
            a: self.a.view(),
            d: self.d.value()?.view(),
        }))
    }

    /// Columns of room that it takes: for W_x u, the same normalised, and Δ where its weight is packed.
    pub(crate) fn room(&self) -> usize {
        2 * aligned(self.projected()) + aligned(self.a.shape().rows())
    }

    /// y = SSM(u) ⊙ silu(z) for one token of each slot, whose states (slots, d_inner · N) move on in place.
    ///
    /// # Shapes
    /// u, z, y (slots, d_inner), states of f32 or bf16, room (slots, at least [`SelectiveStep::room`])
    pub(crate) fn step(
        &self,
        [u, z]: [View<'_>; 2],
        state: ViewMut<'_>,
        room: ViewMut<'_>,
        y: ViewMut<'_>,
    ) -> Result<()> {
        let (rank, n) = (self.dt.shape().cols(), self.a.shape().cols());
        let (projected, room) = room.split_columns(aligned(self.projected()));
        let (mut normalised, delta) = room.split_columns(aligned(self.projected()));
        let (mut projected, mut delta) = (
            projected.columns(0..rank + 2 * n),
            delta.columns(0..u.cols()),
        );
        self.x_proj.step(u, None, projected.reborrow(), false)?;
        let parts = [0..rank, rank..rank + n, rank + n..rank + 2 * n];
        for (norm, part) in self.norms.iter().zip(&parts) {
            if let Some(norm) = norm {
                let x = projected.as_view().columns(part.clone());
                rms_norm::step(
                    x,
                    norm.lowered()?,
                    normalised.reborrow().columns(part.clone()),
                )?;
            }
        }
        let part = |i: usize| {
            let from = if self.norms[i].is_some() {
                &normalised
            } else {
                &projected
            };
            from.as_view().columns(Range::clone(&parts[i]))
        };
        let delta = match self.dt.weight()? {
            Weight::Plain(weight) => StepDelta::LowRank {
                low: part(0),
                weight,
            },
            packed => {
                linear::step(part(0), None, packed, None, delta.reborrow(), false)?;
                StepDelta::Given(delta.as_view())
            }
        };
        let operands = StepOperands {
            u,
            delta,
            a: self.a.view(),
            b: part(1),
            c: part(2),
            d: Some(self.d.value()?.view()),
            z: Some(z),
            delta_bias: Some(self.dt_bias.value()?.view()),
            zero_order_hold: self.zero_order_hold,
        };
        Ok(step(&operands, state, y)?)
    }
}
