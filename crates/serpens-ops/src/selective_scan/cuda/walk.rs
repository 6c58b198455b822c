//! What both backward scans, with a real and with a complex A, have in common: the parameters of the kernel that walks
//! back through time, and the sums of what its blocks leave.

use serpens_core::cuda::DevicePtr;
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::fold::{Folds, Partials};
use super::launch::{Program, Segments, Workspace};
use super::{Scan, ScanOperands, grid, ptr, ptr_mut};

/// What a backward scan reads, and the gradients that it writes; see [`super::backward`].
pub(super) struct BackwardScan<'a> {
    pub scan: &'a Scan<'a>,
    pub checkpoints: View<'a>,
    pub dout: View<'a>,
    pub dlast: Option<View<'a>>,
    pub grads: ScanOperands<ViewMut<'a>>,
}

kernel_params! {
    /// A matrix as the kernels take it.
    pub(super) struct Rows {
        at: DevicePtr,
        stride: i64, // in bytes
    }

    /// What the kernels take. Where A is complex, N stands for 2 N but in A and its gradients.
    pub(super) struct ScanBackwardParams {
        u: Rows, // (batch length, channels)
        delta: Rows,
        z: Rows,
        dy: Rows,
        b: Rows, // (batch length, groups N)
        c: Rows,
        du: Rows,
        ddelta: Rows,
        dz: Rows,
        a: DevicePtr as "const float*", // (channels, N)
        d: DevicePtr as "const float*",
        bias: DevicePtr as "const float*",
        starts: DevicePtr as "const u8*",
        checkpoints: DevicePtr as "const float*", // (batch, chunks, channels, N): the state before every 32nd step
        dlast: DevicePtr as "const float*", // (batch, channels, N), or null for zero
        // (segments, batch, channels, N): what flows back into each segment's last state, where there are several
        pub carry: DevicePtr as "const float*",
        dinitial: DevicePtr as "float*",
        bc_partials: DevicePtr as "float*", // (blocks per group, batch, length, 2, groups N): dB, then dC
        a_partials: DevicePtr as "float*", // (segments, batch, channels, N)
        d_partials: DevicePtr as "float*", // (segments, batch, channels)
        bias_partials: DevicePtr as "float*", // (segments, batch, channels)
        batch: i64,
        length: i64,
        channels: i32,
        state: i32,
        groups: i32,
        group_blocks: i32,
        chunks: i32,
        segments: Segments,
        softplus: i32,
        reverse: i32,
        a_im: DevicePtr as "const float*", // where A is complex
        a_im_partials: DevicePtr as "float*",
    }
}

impl Rows {
    const NONE: Self = Self {
        at: DevicePtr::NULL,
        stride: 0,
    };

    fn new(view: View<'_>) -> Self {
        Self {
            at: view.ptr(),
            stride: (view.stride() * view.dtype().size()) as i64,
        }
    }
}

/// A backward scan by so many blocks for each group of channels, of each sequence and segment of time.
pub(super) struct Walk<'a> {
    back: &'a BackwardScan<'a>,
    group_blocks: usize,
    segments: usize,
    pub params: ScanBackwardParams,
    pub workspace: Workspace,
}

impl<'a> Walk<'a> {
    /// With memory for what the blocks leave.
    pub fn new(back: &'a BackwardScan<'a>, group_blocks: usize, segments: usize) -> Result<Self> {
        let (scan, grads) = (back.scan, &back.grads);
        let (dims, x) = (&scan.dims, &scan.operands);
        let rows = |view: Option<View<'_>>| view.map_or(Rows::NONE, Rows::new);
        let bc = group_blocks * dims.rows() * 2 * dims.groups * dims.width();
        let of_channels = segments * dims.batch * dims.channels;
        let states = of_channels * dims.state;
        let mut workspace = Workspace::new(back.dout.device());
        let params = ScanBackwardParams {
            u: Rows::new(x.u),
            delta: Rows::new(x.delta),
            z: rows(x.z),
            dy: Rows::new(back.dout),
            b: Rows::new(x.b),
            c: Rows::new(x.c),
            du: Rows::new(grads.u.as_view()),
            ddelta: Rows::new(grads.delta.as_view()),
            dz: rows(grads.z.as_ref().map(ViewMut::as_view)),
            a: x.a.ptr(),
            d: ptr(x.d),
            bias: ptr(x.delta_bias),
            starts: ptr(scan.starts),
            checkpoints: back.checkpoints.ptr(),
            dlast: ptr(back.dlast),
            carry: workspace.take_if(segments > 1, states)?,
            dinitial: ptr_mut(&grads.initial_state),
            bc_partials: workspace.take(bc)?,
            a_partials: workspace.take(states)?,
            d_partials: workspace.take_if(grads.d.is_some(), of_channels)?,
            bias_partials: workspace.take_if(grads.delta_bias.is_some(), of_channels)?,
            batch: dims.batch as i64,
            length: dims.length as i64,
            channels: dims.channels as i32,
            state: dims.state as i32,
            groups: dims.groups as i32,
            group_blocks: group_blocks as i32,
            chunks: dims.chunks() as i32,
            segments: Segments::new(segments, dims.length),
            softplus: scan.softplus.into(),
            reverse: scan.reverse.into(),
            a_im: ptr(x.a_im),
            a_im_partials: workspace.take_if(dims.complex, states)?,
        };
        Ok(Self {
            back,
            group_blocks,
            segments,
            params,
            workspace,
        })
    }

    /// Queues the kernel, and the sums of what its blocks leave.
    ///
    /// # Safety
    /// The program is that of a kernel that takes [`ScanBackwardParams`], with the threads and the shared memory that
    /// it lays out; the views of the scan are valid for its sizes.
    pub unsafe fn launch(&self, program: &Program) -> Result<()> {
        let (dims, device) = (&self.back.scan.dims, self.back.dout.device());
        let slots = self.segments * dims.batch;
        let grid = grid(dims.groups * self.group_blocks * slots)?;
        // SAFETY: the caller's promise.
        unsafe { program.launch(device, grid, &self.params)? };
        // SAFETY: the partials were allocated for their sizes, which the gradients have.
        unsafe { self.folds(slots).launch(device, self.back.dout.dtype()) }
    }

    /// The sums over blocks, and over the segments of all sequences.
    fn folds(&self, slots: usize) -> Folds {
        let (dims, params, grads) = (&self.back.scan.dims, &self.params, &self.back.grads);
        let width = dims.groups * dims.width();
        let bc = |first: usize| Partials {
            from: DevicePtr(params.bc_partials.0 + 4 * first as u64),
            count: self.group_blocks,
            stride: dims.rows() * 2 * width,
            row_stride: 2 * width,
        };
        let mut folds = Folds::default();
        folds.add(&bc(0), &grads.b.as_view());
        folds.add(&bc(width), &grads.c.as_view());
        let dense = [
            (params.a_partials, Some(&grads.a)),
            (params.a_im_partials, grads.a_im.as_ref()),
            (params.d_partials, grads.d.as_ref()),
            (params.bias_partials, grads.delta_bias.as_ref()),
        ];
        for (from, to) in dense {
            if let Some(to) = to {
                folds.add_dense(from, slots, &to.as_view());
            }
        }
        folds
    }
}
