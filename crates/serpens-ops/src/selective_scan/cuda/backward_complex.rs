//! The gradients of the scan with a complex A: one kernel, and the sums of what its blocks leave.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::fold::{ScanPartials, Workspace};
use super::{Scan, ScanOperands, flag, grid, ptr, ptr_mut};
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_backward_complex",
    concat!(
        include_str!("decay.cuh"),
        include_str!("backward_complex.cu")
    ),
)
.params(&[ComplexBackwardParams::declare])
.constants(&[("CHUNK", CHUNK as i32)])
// Not the powers of two that models have.
.may_spill(|program| match program.number("STATE") {
    Some(state) => state > 64 || state.count_ones() > 1,
    None => false,
});

/// Steps that are in shared memory at a time.
const SUB: usize = 8;

/// How a block is made; the names are those of the kernel's macros.
struct ComplexBackwardPlan {
    split: usize,
    per_lane: usize,
    warps: usize,
}

impl ComplexBackwardPlan {
    /// A lane for each number of the state as far as a warp goes; at most 32 channels, and what shared memory holds.
    fn new(state: usize) -> Self {
        let padded = state.next_power_of_two();
        let split = padded.min(32);
        Self {
            split,
            per_lane: padded / split,
            warps: split.min(8).min(512 / padded),
        }
    }

    fn channels(&self) -> usize {
        self.warps * 32 / self.split
    }

    /// The size of the kernel's `Shared`.
    fn shared_bytes(&self, state: usize) -> usize {
        4 * SUB * (5 * self.channels() + (1 + self.warps) * 4 * state)
    }

    fn defines(
        &self,
        state: usize,
        dtype: DType,
        [gated, softplus, starts]: [bool; 3],
    ) -> Vec<(&'static str, String)> {
        vec![
            ("IO", dtype.cuda_name().to_owned()),
            ("STATE", state.to_string()),
            ("SPLIT", self.split.to_string()),
            ("PER_LANE", self.per_lane.to_string()),
            ("WARPS", self.warps.to_string()),
            ("GATED", flag(gated)),
            ("SOFTPLUS", flag(softplus)),
            ("STARTS", flag(starts)),
        ]
    }
}

kernel_params! {
    struct ValueRows {
        at: DevicePtr,
        stride: i64, // in elements
    }
}

fn rows(view: Option<View<'_>>) -> ValueRows {
    ValueRows {
        at: ptr(view),
        stride: view.map_or(0, |view| view.stride() as i64),
    }
}

kernel_params! {
    struct ComplexBackwardParams {
        u: ValueRows, // (batch length, channels) or (batch length, groups 2N)
        delta: ValueRows,
        z: ValueRows,
        dy: ValueRows,
        b: ValueRows,
        c: ValueRows,
        du: ValueRows,
        ddelta: ValueRows,
        dz: ValueRows,
        a_re: DevicePtr as "const float*", // (channels, N)
        a_im: DevicePtr as "const float*",
        d: DevicePtr as "const float*",
        bias: DevicePtr as "const float*",
        starts: DevicePtr as "const u8*",
        checkpoints: DevicePtr as "const float*", // (batch, chunks, channels, 2N)
        dlast: DevicePtr as "const float*", // (batch, channels, 2N) or null
        dinitial: DevicePtr as "float*", // the same
        bc_partials: DevicePtr as "float*", // (blocks of a group, batch length, 2, groups 2N)
        a_re_partials: DevicePtr as "float*", // (batch, channels, N)
        a_im_partials: DevicePtr as "float*",
        d_partials: DevicePtr as "float*", // (batch, channels) or null
        bias_partials: DevicePtr as "float*",
        length: i64,
        channels: i32,
        groups: i32,
        group_blocks: i32,
        reverse: i32,
    }
}

/// Computes every gradient; see [`super::backward`].
pub fn backward(
    scan: &Scan<'_>,
    checkpoints: View<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    grads: &ScanOperands<ViewMut<'_>>,
) -> Result<()> {
    let (device, dtype) = (dout.device(), dout.dtype());
    let (dims, x) = (&scan.dims, &scan.operands);
    let plan = ComplexBackwardPlan::new(dims.state);
    let group_blocks = (dims.channels / dims.groups).div_ceil(plan.channels());
    let grid = grid(dims.batch * dims.groups * group_blocks)?;
    let (places, width) = (dims.batch * dims.length, dims.groups * 2 * dims.state);
    let channels = dims.batch * dims.channels;
    let mut workspace = Workspace {
        device,
        tensors: Vec::new(),
    };
    let params = ComplexBackwardParams {
        u: rows(Some(x.u)),
        delta: rows(Some(x.delta)),
        z: rows(x.z),
        dy: rows(Some(dout)),
        b: rows(Some(x.b)),
        c: rows(Some(x.c)),
        du: rows(Some(grads.u.as_view())),
        ddelta: rows(Some(grads.delta.as_view())),
        dz: rows(grads.z.as_ref().map(ViewMut::as_view)),
        a_re: x.a.ptr(),
        a_im: ptr(x.a_im),
        d: ptr(x.d),
        bias: ptr(x.delta_bias),
        starts: ptr(scan.starts),
        checkpoints: checkpoints.ptr(),
        dlast: ptr(dlast),
        dinitial: ptr_mut(&grads.initial_state),
        bc_partials: workspace.take(group_blocks * places * 2 * width)?,
        a_re_partials: workspace.take(channels * dims.state)?,
        a_im_partials: workspace.take(channels * dims.state)?,
        d_partials: workspace.take(channels)?,
        bias_partials: workspace.take(channels)?,
        length: dims.length as i64,
        channels: dims.channels as i32,
        groups: dims.groups as i32,
        group_blocks: group_blocks as i32,
        reverse: scan.reverse.into(),
    };
    let options = [x.z.is_some(), scan.softplus, scan.starts.is_some()];
    let defines = plan.defines(dims.state, dtype, options);
    let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let walk = kernel(device, &SOURCE, "selective_scan_backward_complex", &defines)?;
    let shared = plan.shared_bytes(dims.state) as u32;
    // SAFETY: the parameters are the kernel's; the views are valid for the sizes, which the caller has checked, and the
    // workspace was allocated for them.
    unsafe { walk.launch(grid, 32 * plan.warps as u32, shared, &params)? };

    let partials = ScanPartials {
        bc: params.bc_partials,
        group_blocks,
        a: params.a_re_partials,
        a_im: params.a_im_partials,
        d: params.d_partials,
        bias: params.bias_partials,
        slots: dims.batch,
    };
    // SAFETY: the partials were allocated for these sizes, which the gradients have.
    unsafe { partials.fold(dims, grads, (device, dtype)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_fit_every_state_size() {
        for state in 1..=256 {
            let plan = ComplexBackwardPlan::new(state);
            assert!(plan.split * plan.per_lane >= state && plan.warps >= 1);
            assert!(plan.channels() <= 32);
            assert!(plan.shared_bytes(state) <= 99 * 1024, "{state}");
        }
    }
}
