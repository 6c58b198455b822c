//! The forward scan: its launch.

use serpens_core::cuda::{DevicePtr, properties};
use serpens_core::{Result, View, ViewMut};

use super::launch::{KernelOptions, Pass, ScanParams, Segments, Workspace, access_width};
use super::plan::ForwardPlan;
use super::program::program;
use super::segments::carry_over;
use super::{Scan, grid, ptr};
use crate::check;
use crate::selective_scan::OP;

fn params(
    scan: &Scan<'_>,
    out: &ViewMut<'_>,
    last_state: &ViewMut<'_>,
    checkpoints: Option<&ViewMut<'_>>,
    plan: &ForwardPlan,
    [carry, delta_sums]: [DevicePtr; 2],
) -> ScanParams {
    let (dims, x) = (&scan.dims, &scan.operands);
    let stride = |view: View<'_>| view.stride() as i64;
    ScanParams {
        u: x.u.ptr(),
        delta: x.delta.ptr(),
        z: ptr(x.z),
        y: out.ptr(),
        b: x.b.ptr(),
        c: x.c.ptr(),
        a: x.a.ptr(),
        a_im: ptr(x.a_im),
        d: ptr(x.d),
        delta_bias: ptr(x.delta_bias),
        initial: ptr(x.initial_state),
        starts: ptr(scan.starts),
        last: last_state.ptr(),
        checkpoints: ptr(checkpoints.map(ViewMut::as_view)),
        carry,
        delta_sums,
        u_row: stride(x.u),
        delta_row: stride(x.delta),
        z_row: x.z.map_or(0, stride),
        y_row: out.stride() as i64,
        b_row: stride(x.b),
        c_row: stride(x.c),
        length: dims.length as i64,
        batch: dims.batch as i32,
        channels: dims.channels as i32,
        groups: dims.groups as i32,
        segments: Segments::new(plan.segments, dims.length),
        reverse: scan.reverse.into(),
    }
}

/// Computes `out` (batch·length, channels), the state after the last step (batch, channels, parts·N) and, where asked
/// for, the checkpoints (batch, ⌈length / 32⌉, channels, parts·N) that [`super::backward`] needs: the state before
/// every 32nd step.
///
/// # Errors
/// Sequences of 2^31 steps and more; a device that fails.
pub fn forward(
    scan: &Scan<'_>,
    out: ViewMut<'_>,
    last_state: ViewMut<'_>,
    checkpoints: Option<ViewMut<'_>>,
) -> Result<()> {
    let (device, dtype) = (out.device(), out.dtype());
    let (dims, x) = (&scan.dims, &scan.operands);
    let starts = scan.starts.is_some();
    let plan = ForwardPlan::new(dims, dtype, starts, properties(device)?.multiprocessors);
    let mut rows = vec![x.u, x.delta, out.as_view()];
    rows.extend(x.z);
    let options = KernelOptions {
        gated: x.z.is_some(),
        softplus: scan.softplus,
        starts,
        held: scan.zero_order_hold,
        pass: Pass::Scan,
        vec: access_width(&rows, dims.channels / dims.groups),
        bc_vec: access_width(&[x.b, x.c], dims.state),
    };
    let blocks = plan.blocks_of(dims) * plan.segments;
    check::range(OP, "the length", 0..1 << 31, dims.length)?;
    let grid = grid(blocks)?;
    let mut workspace = Workspace::new(device);
    let (cut, of_channels) = (
        plan.segments > 1,
        plan.segments * dims.batch * dims.channels,
    );
    let between = [
        workspace.take_if(cut, of_channels * dims.state)?,
        workspace.take_if(cut, of_channels)?,
    ];
    let checkpoints = checkpoints.as_ref();
    let params = params(scan, &out, &last_state, checkpoints, &plan, between);
    let program = program(&plan, dims, dtype, &options);
    // SAFETY: the parameters are the kernels'; the views are valid for the sizes, which the caller has checked, the
    // workspace was allocated for them; the kernels were compiled for at most as much shared memory as they are given.
    unsafe {
        if plan.segments > 1 {
            let pass = Pass::Left;
            carry_over(
                device,
                &plan,
                dims,
                dtype,
                KernelOptions { pass, ..options },
                &params,
            )?;
        }
        program.launch(device, grid, &params)
    }
}
