//! The forward scan: its programs, and its launch.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, multiprocessors};
use serpens_core::{DType, Device, Result, View, ViewMut, kernel_params};

use super::fold::Workspace;
use super::plan::Plan;
use super::segments::{Segments, carry_over};
use super::{Dims, Scan, flag, forward_few, grid, in_pieces, ptr};
use crate::check;
use crate::selective_scan::OP;
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_forward",
    concat!(
        include_str!("decay.cuh"),
        include_str!("segments.cuh"),
        include_str!("forward.cuh"),
        include_str!("forward.cu")
    ),
)
.params(&[ScanParams::declare])
.constants(&[("CHUNK", CHUNK as i32)])
.may_spill(|program| program.number("VEC") == Some(1) || program.number("STATE") > Some(64));

impl Plan {
    /// The kernel for states that a number of lanes share as planned.
    pub(super) fn program(&self, dims: &Dims, dtype: DType, options: &KernelOptions) -> Program {
        if self.for_few_channels(dims) {
            return forward_few::program(dims.state, dtype, options);
        }
        let shared = self.shared_bytes(dims, dtype, options.starts);
        let defines = vec![
            ("IO", dtype.cuda_name().to_owned()),
            ("STATE", dims.state.to_string()),
            ("SPLIT", self.split.to_string()),
            ("PER_LANE", self.per_lane.to_string()),
            ("WARPS", self.warps.to_string()),
            ("HELPERS", self.helpers.to_string()),
            ("TILE", self.tile.to_string()),
            ("STAGES", self.stages.to_string()),
            ("BLOCKS", self.blocks(shared).to_string()),
            ("WIDTH", self.width.to_string()),
            ("VEC", options.vec.min(self.width).to_string()),
            ("BC_VEC", options.bc_vec.to_string()),
            ("SHARED_BYTES", shared.to_string()),
            ("COMPLEX", flag(dims.complex)),
            ("GATED", flag(options.gated)),
            ("SOFTPLUS", flag(options.softplus)),
            ("STARTS", flag(options.starts)),
            ("PASS", (options.pass as u8).to_string()),
        ];
        Program {
            source: &SOURCE,
            name: "selective_scan_forward",
            defines,
            threads: 32 * (self.warps + self.helpers),
            shared,
        }
    }
}

/// A kernel and how it is launched.
#[derive(Clone)]
pub(super) struct Program {
    pub source: &'static Source,
    pub name: &'static str,
    pub defines: Vec<(&'static str, String)>,
    /// Of a block.
    pub threads: usize,
    pub shared: usize,
}

impl Program {
    /// Queues the kernel.
    ///
    /// # Safety
    /// As for [`serpens_core::cuda::Kernel::launch`].
    pub unsafe fn launch(&self, device: Device, grid: [u32; 3], params: &ScanParams) -> Result<()> {
        let defines = self.defines.iter().map(|(k, v)| (*k, v.as_str()));
        let kernel = kernel(device, self.source, self.name, &defines.collect::<Vec<_>>())?;
        // SAFETY: the caller's promise.
        unsafe { kernel.launch(grid, self.threads as u32, self.shared as u32, params) }
    }
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// The scan.
    Scan,
    /// Before it, what segments of time leave behind.
    Left,
    /// Before the backward scan, what flows back out of them.
    Back,
}

/// What a kernel is compiled for beside the plan.
#[derive(Clone, Copy)]
pub(super) struct KernelOptions {
    pub gated: bool,
    pub softplus: bool,
    pub starts: bool,
    pub pass: Pass,
    pub vec: usize,
    pub bc_vec: usize,
}

/// The most values, a power of two, that one access of at most 16 bytes may take from rows of these views whose pieces begin at
/// multiples of `columns`.
pub(super) fn access_width(views: &[View<'_>], columns: usize) -> usize {
    let most = 16 / views[0].dtype().size();
    let widths = std::iter::successors(Some(most), |width| Some(width / 2));
    widths
        .take_while(|&width| width > 1)
        .find(|&width| in_pieces(views, columns, width))
        .unwrap_or(1)
}

kernel_params! {
    /// The kernels' parameter.
    #[derive(Default)]
    pub(super) struct ScanParams {
        pub u: DevicePtr as "const IO*", // (batch, length, channels), rows apart by u_row; so are the others
        pub delta: DevicePtr as "const IO*",
        pub z: DevicePtr as "const IO*",
        pub y: DevicePtr as "IO*",
        pub b: DevicePtr as "const IO*", // (batch, length, groups N)
        pub c: DevicePtr as "const IO*",
        pub a: DevicePtr as "const float*", // (channels, N)
        pub a_im: DevicePtr as "const float*", // (channels, N) where complex
        pub d: DevicePtr as "const float*", // (channels) or null
        pub delta_bias: DevicePtr as "const float*", // (channels) or null
        pub initial: DevicePtr as "const float*", // (batch, channels, N) or null
        pub starts: DevicePtr as "const u8*", // (batch, length) or null
        pub last: DevicePtr as "float*", // (batch, channels, N)
        pub checkpoints: DevicePtr as "float*", // (batch, length / 32 rounded up, channels, N) or null
        // (segments, batch, channels, N): the state before each segment of time, or null where there is one; in the
        // pass for the gradients what flows back into each
        pub carry: DevicePtr as "float*",
        // (segments, batch, channels): of δ, infinite where the state starts anew; or null
        pub delta_sums: DevicePtr as "float*",
        pub u_row: i64,
        pub delta_row: i64,
        pub z_row: i64,
        pub y_row: i64,
        pub b_row: i64,
        pub c_row: i64,
        pub length: i64,
        pub batch: i32,
        pub channels: i32,
        pub groups: i32,
        pub segments: Segments,
        pub reverse: i32,
    }
}

fn params(
    scan: &Scan<'_>,
    out: &ViewMut<'_>,
    last_state: &ViewMut<'_>,
    checkpoints: Option<&ViewMut<'_>>,
    plan: &Plan,
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

/// Computes `out` (batch·length, channels), the state after the last step (batch, channels, parts·N) and, where asked for, the
/// checkpoints (batch, ⌈length / 32⌉, channels, parts·N) that [`super::backward`] needs: the state before every 32nd step.
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
    let plan = Plan::new(dims, dtype, starts, multiprocessors(device)?);
    let mut rows = vec![x.u, x.delta, out.as_view()];
    rows.extend(x.z);
    let options = KernelOptions {
        gated: x.z.is_some(),
        softplus: scan.softplus,
        starts,
        pass: Pass::Scan,
        vec: access_width(&rows, dims.channels / dims.groups),
        bc_vec: access_width(&[x.b, x.c], dims.state),
    };
    let blocks = plan.blocks_of(dims) * plan.segments;
    check::range(OP, "the length", 0..1 << 31, dims.length)?;
    let grid = grid(blocks)?;
    let mut workspace = Workspace {
        device,
        tensors: Vec::new(),
    };
    let mut of_channels = |len: usize| match plan.segments {
        1 => Ok(DevicePtr::NULL),
        segments => workspace.take(segments * dims.batch * dims.channels * len),
    };
    let between = [of_channels(dims.state)?, of_channels(1)?];
    let checkpoints = checkpoints.as_ref();
    let params = params(scan, &out, &last_state, checkpoints, &plan, between);
    let program = plan.program(dims, dtype, &options);
    // SAFETY: the parameters are the kernels'; the views are valid for the sizes, which the caller has checked, the workspace was
    // allocated for them; the kernels were compiled for at most as much shared memory as they are given.
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
