//! Segments of time, which long sequences of few channels are cut into: what is carried into each before all are walked at once.

use serpens_core::cuda::{DevicePtr, multiprocessors};
use serpens_core::{DType, Device, Result, View};

use super::forward::{KernelOptions, Params, Pass, Program, access_width};
use super::plan::Plan;
use super::{Dims, Inputs, ptr};

const COMBINE_THREADS: usize = 128;

/// Steps between two checkpoints, of which segments have whole numbers.
pub(super) const CHUNK: usize = 32;

/// How a sequence is cut, as the kernels take it: into `count` segments of `chunks` chunks, the first `longer` of them one more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segments {
    count: i32,
    chunks: i32,
    longer: i32,
}

impl Segments {
    pub fn new(count: usize, length: usize) -> Self {
        let chunks = length.div_ceil(CHUNK);
        Self {
            count: count as i32,
            chunks: (chunks / count) as i32,
            longer: (chunks % count) as i32,
        }
    }
}

/// Queues the pass over all segments but the last, or back over all but the first, and what turns its results into the true carry
/// into each.
///
/// # Safety
/// As for [`Program::launch`]; `params.carry` has room for (segments, batch, channels, N) values, `params.delta_sums` for (segments,
/// batch, channels).
pub(super) unsafe fn carry_over(
    device: Device,
    plan: &Plan,
    dims: &Dims,
    dtype: DType,
    options: KernelOptions,
    params: &Params,
) -> Result<()> {
    let program = plan.program(dims.state, dtype, &options);
    let grid = (plan.blocks_of(dims) * (plan.segments - 1)) as u32;
    let states = dims.batch * dims.channels * dims.state;
    let combine = Program {
        name: "selective_scan_combine",
        threads: COMBINE_THREADS,
        shared: 0,
        ..program.clone()
    };
    let combine_grid = states.div_ceil(COMBINE_THREADS) as u32;
    // SAFETY: the caller's promise.
    unsafe {
        program.launch(device, grid, params)?;
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

/// Queues what computes `between.carry` of a scan with the real `a`, from the gradients of its output and last state.
///
/// # Errors
/// A device that fails.
///
/// # Safety
/// The addresses are valid for their sizes.
pub(super) unsafe fn flow_back(
    dims: &Dims,
    inputs: &Inputs<'_>,
    a: View<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    between: &Between,
) -> Result<()> {
    let (device, dtype, starts) = (dout.device(), dout.dtype(), inputs.starts.is_some());
    let plan = Plan::back(
        dims,
        dtype,
        starts,
        multiprocessors(device)?,
        between.segments,
    );
    let mut rows = vec![dout, inputs.delta];
    rows.extend(inputs.z);
    let options = KernelOptions {
        complex: false,
        gated: inputs.z.is_some(),
        softplus: inputs.softplus,
        starts,
        pass: Pass::Back,
        vec: access_width(&rows, dims.channels / dims.groups),
        bc_vec: access_width(&[inputs.c], dims.state),
    };
    let stride = |view: View<'_>| view.stride() as i64;
    let params = Params {
        u: dout.ptr(),
        delta: inputs.delta.ptr(),
        z: ptr(inputs.z),
        b: inputs.c.ptr(),
        a: a.ptr(),
        delta_bias: ptr(inputs.delta_bias),
        initial: ptr(dlast),
        starts: ptr(inputs.starts),
        carry: between.carry,
        delta_sums: between.delta_sums,
        u_row: stride(dout),
        delta_row: stride(inputs.delta),
        z_row: inputs.z.map_or(0, stride),
        b_row: stride(inputs.c),
        segments: Segments::new(between.segments, dims.length),
        length: dims.length as i64,
        batch: dims.batch as i32,
        channels: dims.channels as i32,
        groups: dims.groups as i32,
        reverse: inputs.reverse.into(),
        ..Params::default()
    };
    // SAFETY: the caller's promise.
    unsafe { carry_over(device, &plan, dims, dtype, options, &params) }
}
