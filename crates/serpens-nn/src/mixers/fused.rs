//! A step of Mamba around S6, with everything between two products in one operation: norm and W_in; conv and SiLU; W_x;
//! Δ, scan, D and gate; W_out onto the residual stream.

use serpens_core::Tensor;
use serpens_ops::mamba_layers::MambaLayer;

use super::Stepper;
use crate::layers::{CausalConv1d, Linear, RmsNorm};
use crate::ssm::SelectiveStep;
use crate::{Error, Result};

/// Where columns of room may start, so that kernels of a GPU read whole packets.
const ALIGNED: usize = 64;

/// Columns of room for this many.
pub(crate) fn aligned(columns: usize) -> usize {
    columns.next_multiple_of(ALIGNED)
}

/// W_out (SSM(silu(conv(x))) ⊙ silu(z)) with (x, z) = W_in norm(h).
pub(super) struct FusedMamba {
    pub(super) in_proj: Linear,
    pub(super) conv: CausalConv1d,
    pub(super) ssm: SelectiveStep,
    pub(super) out_proj: Linear,
    pub(super) d_inner: usize,
}

impl Stepper for FusedMamba {
    /// x and z, u, and what the state space model takes. y comes in place of x.
    fn room(&self) -> usize {
        aligned(2 * self.d_inner) + aligned(self.d_inner) + self.ssm.room()
    }

    /// That behind the window of the convolution.
    fn narrow_state(&self) -> Option<usize> {
        Some(1)
    }

    fn layer<'a>(
        &'a self,
        norm: &'a RmsNorm,
        state: &'a mut [Tensor],
    ) -> Result<Option<MambaLayer<'a>>> {
        let projections = (self.in_proj.unbiased()?, self.out_proj.unbiased()?);
        let ((Some(in_proj), Some(out_proj)), [past, of_scan]) = (projections, state) else {
            return Ok(None);
        };
        let (Some(ssm), Some((conv, conv_bias))) = (self.ssm.operands()?, self.conv.with_silu()?)
        else {
            return Ok(None);
        };
        let [past, state] = [past, of_scan].map(|state| {
            let all = state.shape()[0];
            Ok::<_, Error>(state.view_mut()?.with_rows(all).first_rows(1))
        });
        Ok(Some(MambaLayer {
            norm: norm.lowered()?,
            in_proj,
            conv,
            conv_bias,
            x_proj: ssm.x_proj,
            dt_proj: ssm.dt_proj,
            dt_bias: ssm.dt_bias,
            a: ssm.a,
            d: ssm.d,
            out_proj,
            past: past?,
            state: state?,
        }))
    }

    fn step(
        &self,
        norm: &RmsNorm,
        slots: usize,
        h: &mut Tensor,
        state: &mut [Tensor],
        room: &mut Tensor,
    ) -> Result<()> {
        let d_inner = self.d_inner;
        let found = state.len();
        let [conv, ssm] = state else {
            return Err(Error::state("tensors", 2, found));
        };
        let [conv, ssm] = [conv, ssm].map(|state| {
            let all = state.shape()[0];
            Ok::<_, Error>(state.view_mut()?.with_rows(all).first_rows(slots))
        });
        let room = room.view_mut()?.first_rows(slots);
        let (inputs, room) = room.split_columns(aligned(2 * d_inner));
        let (u, room) = room.split_columns(aligned(d_inner));
        let (mut inputs, mut u) = (inputs.columns(0..2 * d_inner), u.columns(0..d_inner));
        let of_slots = h.view().first_rows(slots);
        let projected = (of_slots, norm.lowered()?, &self.in_proj);
        self.conv
            .step(projected, inputs.reborrow(), conv?, u.reborrow())?;
        let (mut x, z) = inputs.split_columns(d_inner);
        self.ssm
            .step([u.as_view(), z.as_view()], ssm?, room, x.reborrow())?;
        let of_slots = h.view_mut()?.first_rows(slots);
        self.out_proj.step(x.as_view(), None, of_slots, true)
    }
}
