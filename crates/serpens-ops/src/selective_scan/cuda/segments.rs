//! Segments of time, which long sequences of few channels are cut into: what is carried into each before all are walked
//! at once.

use serpens_core::cuda::{DevicePtr, properties};
use serpens_core::{DType, Device, Result, View};

use super::launch::{KernelOptions, Pass, Program, ScanParams, Segments, access_width};
use super::plan::ForwardPlan;
use super::program::{COMBINE_THREADS, program};
use super::{Dims, Scan, grid, ptr};

/// Queues the pass over all segments but the last, or back over all but the first, and what turns its results into the
/// true carry into each.
///
/// # Safety
/// As for [`Program::launch`]; `params.carry` has room for (segments, batch, channels, N) values, `params.delta_sums`
/// for (segments, batch, channels).
pub(super) unsafe fn carry_over(
    device: Device,
    plan: &ForwardPlan,
    dims: &Dims,
    dtype: DType,
    options: KernelOptions,
    params: &ScanParams,
) -> Result<()> {
    let program = program(plan, dims, dtype, &options);
    let segments_grid = grid(plan.blocks_of(dims) * (plan.segments - 1))?;
    let states = dims.batch * dims.channels * dims.state;
    let combine = Program {
        name: "selective_scan_combine",
        threads: COMBINE_THREADS,
        shared: 0,
        ..program.clone()
    };
    let combine_grid = grid(states.div_ceil(COMBINE_THREADS))?;
    // SAFETY: the caller's promise.
    unsafe {
        program.launch(device, segments_grid, params)?;
        combine.launch(device, combine_grid, params)
    }
}

/// What a backward scan has between its segments.
pub(super) struct Between {
    /// (segments, batch, channels, N): what flows back into each.
    pub carry: DevicePtr,
    /// (segments, batch, channels).
    pub delta_sums: DevicePtr,
    pub segments: usize,
}

/// Queues what computes `between.carry` of a scan with a real A, from the gradients of its output and last state.
///
/// # Errors
/// A device that fails.
///
/// # Safety
/// The addresses are valid for their sizes.
pub(super) unsafe fn flow_back(
    scan: &Scan<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    between: &Between,
) -> Result<()> {
    let (dims, x) = (&scan.dims, &scan.operands);
    let (device, dtype, starts) = (dout.device(), dout.dtype(), scan.starts.is_some());
    let plan = ForwardPlan::back(
        dims,
        dtype,
        starts,
        properties(device)?.multiprocessors,
        between.segments,
    );
    let mut rows = vec![dout, x.delta];
    rows.extend(x.z);
    let options = KernelOptions {
        gated: x.z.is_some(),
        softplus: scan.softplus,
        starts,
        held: false, // λ does not read the input
        pass: Pass::Back,
        vec: access_width(&rows, dims.channels / dims.groups),
        bc_vec: access_width(&[x.c], dims.state),
    };
    let stride = |view: View<'_>| view.stride() as i64;
    let params = ScanParams {
        u: dout.ptr(),
        delta: x.delta.ptr(),
        z: ptr(x.z),
        b: x.c.ptr(),
        a: x.a.ptr(),
        delta_bias: ptr(x.delta_bias),
        initial: ptr(dlast),
        starts: ptr(scan.starts),
        carry: between.carry,
        delta_sums: between.delta_sums,
        u_row: stride(dout),
        delta_row: stride(x.delta),
        z_row: x.z.map_or(0, stride),
        b_row: stride(x.c),
        segments: Segments::new(between.segments, dims.length),
        length: dims.length as i64,
        batch: dims.batch as i32,
        channels: dims.channels as i32,
        groups: dims.groups as i32,
        reverse: scan.reverse.into(),
        ..ScanParams::default()
    };
    // SAFETY: the caller's promise.
    unsafe { carry_over(device, &plan, dims, dtype, options, &params) }
}
