//! The gradients of the scan with a real A: how the work is divided, and the launches.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::fold::{ScanPartials, Workspace};
use super::launch::Segments;
use super::segments::{Between, flow_back};
use super::{Dims, Scan, ScanOperands, accessible, flag, grid, ptr, ptr_mut};
use crate::check;
use crate::selective_scan::OP;
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_backward",
    concat!(
        include_str!("segments.cuh"),
        include_str!("backward.cuh"),
        include_str!("backward.cu")
    ),
)
.params(&[ScanBackwardParams::declare])
.constants(&[("CHUNK", CHUNK as i32)])
// But what models run: bf16, 16 numbers of the state at most, accesses of several values.
.may_spill(|program| {
    let hot = program.number("SLICES") == Some(1)
        && program.number("VEC") > Some(1)
        && program.number("BC_VEC") > Some(1)
        && program.define("IO") == Some(DType::BF16.cuda_name());
    !hot
});

/// Channels and states of a warp.
const WARP_CHANNELS: usize = 8;
const WARP_STATES: usize = 16;
/// Warps of a wide block.
const WIDE_WARPS: usize = 8;

/// How a scan is divided: into blocks of channels, and into segments of time.
#[derive(Clone, Copy, Debug)]
struct BackwardPlan {
    /// Slices of 16 states, each a warp's.
    slices: usize,
    /// Warps beside each other, each with 8 channels.
    channel_warps: usize,
    /// Steps that are walked forward and back at once.
    steps_at_once: usize,
    /// Blocks of channels in each group.
    group_blocks: usize,
    chunks: usize,
    segments: usize,
}

/// What of a card the division depends on.
#[derive(Clone, Copy, Debug)]
struct Card {
    multiprocessors: usize,
    /// Bytes that a block may have.
    shared_memory: usize,
}

impl BackwardPlan {
    /// Blocks of 4 warps, or, where they fill the multiprocessors as well, of 8, whose partial sums of dB and dC are
    /// half as many, which is worth 2 %. Two of those fit into a multiprocessor where only 4 steps are walked at once;
    /// one does not fit into every card's shared memory.
    fn new(dims: &Dims, dtype: DType, card: Card) -> Self {
        let of_group = dims.channels / dims.groups;
        let slices = dims.state.div_ceil(WARP_STATES);
        let most = (4 / slices).max(1);
        let usual = of_group
            .div_ceil(WARP_CHANNELS)
            .next_power_of_two()
            .min(most);
        let (plan, time) = Self::with_warps(dims, usual, 8, card.multiprocessors);
        let (wide, wide_time) = Self::with_warps(dims, WIDE_WARPS, 4, card.multiprocessors);
        let blocks = dims.batch * dims.groups * wide.group_blocks * wide.segments;
        let fills = blocks > card.multiprocessors && wide_time < 1.02 * time;
        let fits = wide.walk_bytes(dtype) <= card.shared_memory;
        if dtype == DType::BF16 && slices == 1 && fills && fits {
            wide
        } else {
            plan
        }
    }

    /// The plan with so many warps in a block, and the time that it takes.
    fn with_warps(
        dims: &Dims,
        channel_warps: usize,
        steps_at_once: usize,
        multiprocessors: usize,
    ) -> (Self, f64) {
        let slices = dims.state.div_ceil(WARP_STATES);
        let group_blocks = (dims.channels / dims.groups).div_ceil(WARP_CHANNELS * channel_warps);
        let chunks = dims.length.div_ceil(CHUNK);
        let blocks = dims.batch * dims.groups * group_blocks;
        let (segments, time) =
            best_segments(blocks, slices * channel_warps, chunks, multiprocessors);
        let plan = Self {
            slices,
            channel_warps,
            steps_at_once,
            group_blocks,
            chunks,
            segments,
        };
        (plan, time)
    }

    fn channels(&self) -> usize {
        WARP_CHANNELS * self.channel_warps
    }

    fn threads(&self) -> usize {
        32 * self.slices * self.channel_warps
    }

    /// The size of the walk's `Shared` and what lies behind it.
    fn walk_bytes(&self, dtype: DType) -> usize {
        let (row, states) = (CHUNK * self.channels(), WARP_STATES * self.slices);
        let ahead = if self.slices <= 4 { CHUNK } else { 1 };
        let warps = self.slices * self.channel_warps;
        let slices = if self.slices > 1 { self.slices } else { 0 };
        let padding = if self.channels() > 8 { 24 } else { 16 };
        dtype.size() * (7 * row + ahead * 2 * states)
            + 4 * (CHUNK * (2 * states + padding) + 5 * row + warps * 2 * CHUNK * WARP_STATES)
            + 4 * slices * 3 * row
    }

    fn defines(&self, dtype: DType, options: &KernelOptions) -> Vec<(&'static str, String)> {
        vec![
            ("IO", dtype.cuda_name().to_owned()),
            ("VEC", options.vec.to_string()),
            ("BC_VEC", options.bc_vec.to_string()),
            ("STATE_VEC", options.state_vec.to_string()),
            ("SLICES", self.slices.to_string()),
            ("CHANNEL_WARPS", self.channel_warps.to_string()),
            ("SUB", self.steps_at_once.to_string()),
            ("GATE", flag(options.gated)),
            ("STARTS", flag(options.starts)),
        ]
    }
}

/// The segments with which so many blocks, of so many warps each, take the least time, and that time: of the walk of a
/// segment, and of the pass before it that more than one segment need. A multiprocessor is as fast with 8 warps as with
/// all that it holds and works through its blocks as if one after another; only with fewer than 6 warps it waits. In
/// units of a warp's walk over a chunk.
fn best_segments(
    blocks: usize,
    warps: usize,
    chunks: usize,
    multiprocessors: usize,
) -> (usize, f64) {
    const LEAST_WARPS: usize = 6;
    /// Segments are worth while up to so many warps for a multiprocessor.
    const MOST_WARPS: usize = 48;
    /// What a block takes beside its chunks, what a chunk takes in the pass before, and the launches of that.
    const BLOCK: f64 = 1.0;
    const BEFORE: f64 = 0.25;
    const LAUNCHES: f64 = 18.0;
    let time = |segments: usize| {
        let each = chunks.div_ceil(segments) as f64;
        let in_turn = |segments: usize| {
            let most = warps * (blocks * segments).div_ceil(multiprocessors);
            most.max(LEAST_WARPS) as f64
        };
        let before = match segments {
            1 => 0.0,
            _ => in_turn(segments - 1) * each * BEFORE + LAUNCHES,
        };
        in_turn(segments) * (each + BLOCK) + before
    };
    let most = (MOST_WARPS * multiprocessors).div_ceil(warps * blocks);
    let segments = (1..=most.clamp(1, chunks)).min_by(|&a, &b| time(a).total_cmp(&time(b)));
    let segments = segments.unwrap_or(1);
    (segments, time(segments))
}

/// What the kernels are compiled for beside the plan.
struct KernelOptions {
    vec: usize,
    bc_vec: usize,
    state_vec: usize,
    gated: bool,
    starts: bool,
}

/// `width` if rows of all these views can be read in accesses of so many values that begin at multiples of `columns`,
/// otherwise 1.
fn access_width(views: &[View<'_>], columns: usize, width: usize) -> usize {
    if accessible(views, columns, width) {
        width
    } else {
        1
    }
}

kernel_params! {
    /// A matrix as the kernels take it, its stride in bytes.
    struct ByteRows {
        at: DevicePtr,
        stride: i64,
    }
}

impl ByteRows {
    const NONE: Self = Self {
        at: DevicePtr::NULL,
        stride: 0,
    };

    fn new(view: View<'_>) -> Result<Self> {
        let stride = view.stride() * view.dtype().size();
        check::range(OP, "the bytes from row to row", 0..1 << 31, stride)?;
        check::range(OP, "the number of rows", 0..1 << 31, view.rows())?;
        Ok(Self {
            at: view.ptr(),
            stride: stride as i64,
        })
    }
}

kernel_params! {
    struct ScanBackwardParams {
        u: ByteRows,
        delta: ByteRows,
        z: ByteRows,
        dy: ByteRows,
        b: ByteRows,
        c: ByteRows,
        du: ByteRows,
        ddelta: ByteRows,
        dz: ByteRows,
        a: DevicePtr as "const float*",
        d: DevicePtr as "const float*",
        bias: DevicePtr as "const float*",
        starts: DevicePtr as "const u8*",
        checkpoints: DevicePtr as "const float*", // (batch, chunks, channels, N): the state before every 32nd step
        dlast: DevicePtr as "const float*", // (batch, channels, N), or null for zero
        // (segments, batch, channels, N): what flows back into each segment's last state
        carry: DevicePtr as "const float*",
        dinitial: DevicePtr as "float*",
        bc_partials: DevicePtr as "float*", // (blocks per group, batch, length, 2, groups N)
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
    }
}

/// What is read and written, beside the operands and their gradients.
struct Views<'a> {
    checkpoints: View<'a>,
    dout: View<'a>,
    dlast: Option<View<'a>>,
}

fn kernel_options(
    scan: &Scan<'_>,
    views: &Views<'_>,
    grads: &ScanOperands<ViewMut<'_>>,
) -> KernelOptions {
    let (dims, x) = (&scan.dims, &scan.operands);
    let dtype = views.dout.dtype();
    let wide = 16 / dtype.size();
    let mut rows = vec![x.u, x.delta, views.dout];
    rows.extend([grads.u.as_view(), grads.delta.as_view()]);
    rows.extend(x.z);
    rows.extend(grads.z.as_ref().map(ViewMut::as_view));
    let mut states = vec![x.a, views.checkpoints];
    states.extend(views.dlast);
    states.extend(grads.initial_state.as_ref().map(ViewMut::as_view));
    KernelOptions {
        vec: access_width(&rows, dims.channels / dims.groups, wide),
        bc_vec: access_width(&[x.b, x.c], dims.state, wide),
        state_vec: access_width(&states, dims.state, 4),
        gated: x.z.is_some(),
        starts: scan.starts.is_some(),
    }
}

fn params(
    scan: &Scan<'_>,
    plan: &BackwardPlan,
    views: &Views<'_>,
    grads: &ScanOperands<ViewMut<'_>>,
    workspace: &mut Workspace,
) -> Result<ScanBackwardParams> {
    let (dims, x) = (&scan.dims, &scan.operands);
    let slots = plan.segments * dims.batch;
    let bc = plan.group_blocks * dims.batch * dims.length * 2 * dims.groups * dims.state;
    let states = slots * dims.channels * dims.state;
    let rows = |view: Option<View<'_>>| view.map_or(Ok(ByteRows::NONE), ByteRows::new);
    let of_channels = |given: bool, workspace: &mut Workspace| match given {
        true => workspace.take(slots * dims.channels),
        false => Ok(DevicePtr::NULL),
    };
    Ok(ScanBackwardParams {
        u: ByteRows::new(x.u)?,
        delta: ByteRows::new(x.delta)?,
        z: rows(x.z)?,
        dy: ByteRows::new(views.dout)?,
        b: ByteRows::new(x.b)?,
        c: ByteRows::new(x.c)?,
        du: ByteRows::new(grads.u.as_view())?,
        ddelta: ByteRows::new(grads.delta.as_view())?,
        dz: rows(grads.z.as_ref().map(ViewMut::as_view))?,
        a: x.a.ptr(),
        d: ptr(x.d),
        bias: ptr(x.delta_bias),
        starts: ptr(scan.starts),
        checkpoints: views.checkpoints.ptr(),
        dlast: ptr(views.dlast),
        carry: workspace.take(states)?,
        dinitial: ptr_mut(&grads.initial_state),
        bc_partials: workspace.take(bc)?,
        a_partials: workspace.take(states)?,
        d_partials: of_channels(grads.d.is_some(), workspace)?,
        bias_partials: of_channels(grads.delta_bias.is_some(), workspace)?,
        batch: dims.batch as i64,
        length: dims.length as i64,
        channels: dims.channels as i32,
        state: dims.state as i32,
        groups: dims.groups as i32,
        group_blocks: plan.group_blocks as i32,
        chunks: plan.chunks as i32,
        segments: Segments::new(plan.segments, dims.length),
        softplus: scan.softplus.into(),
        reverse: scan.reverse.into(),
    })
}

/// Computes every gradient; see [`super::backward`].
pub fn backward(
    scan: &Scan<'_>,
    checkpoints: View<'_>,
    dout: View<'_>,
    dlast: Option<View<'_>>,
    grads: &ScanOperands<ViewMut<'_>>,
) -> Result<()> {
    let (device, dtype, dims) = (dout.device(), dout.dtype(), &scan.dims);
    let views = Views {
        checkpoints,
        dout,
        dlast,
    };
    let card = properties(device)?;
    let card = Card {
        multiprocessors: card.multiprocessors as usize,
        shared_memory: card.shared_memory,
    };
    let plan = BackwardPlan::new(dims, dtype, card);
    let options = kernel_options(scan, &views, grads);
    let mut workspace = Workspace {
        device,
        tensors: Vec::new(),
    };
    let params = params(scan, &plan, &views, grads, &mut workspace)?;
    let defines = plan.defines(dtype, &options);
    let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let blocks = dims.groups * plan.group_blocks * dims.batch * plan.segments;
    let grid = grid(blocks)?;
    let between = Between {
        carry: params.carry,
        delta_sums: workspace.take(plan.segments * dims.batch * dims.channels)?,
        segments: plan.segments,
    };
    let walk = kernel(device, &SOURCE, "selective_scan_backward", &defines)?;
    // SAFETY: the parameters are the kernels'; the caller's views are valid for the sizes, which have been checked, and
    // the workspace was allocated for them; the shared memory is what the kernels lay out.
    unsafe {
        if plan.segments > 1 {
            flow_back(scan, dout, dlast, &between)?;
        }
        let shared = plan.walk_bytes(dtype) as u32;
        walk.launch(grid, plan.threads() as u32, shared, &params)?;
    }
    let partials = ScanPartials {
        bc: params.bc_partials,
        group_blocks: plan.group_blocks,
        a: params.a_partials,
        a_im: DevicePtr::NULL,
        d: params.d_partials,
        bias: params.bias_partials,
        slots: plan.segments * dims.batch,
    };
    // SAFETY: the partials were allocated for their sizes, which the gradients have.
    unsafe { partials.fold(dims, grads, (device, dtype)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: Card = Card {
        multiprocessors: 132,
        shared_memory: 227 * 1024,
    };

    /// A card with little of everything that kernels run on.
    const SMALL: Card = Card {
        multiprocessors: 24,
        shared_memory: 99 * 1024,
    };

    #[test]
    fn plans_cover_every_size_and_fit() {
        for card in [HOPPER, SMALL] {
            for state in 1..=256 {
                for (channels, length, dtype) in [
                    (1, 1, DType::F32),
                    (13, 33, DType::BF16),
                    (1024, 131_072, DType::F32),
                    (1536, 2049, DType::BF16),
                    (16_384, 2048, DType::BF16),
                ] {
                    let dims = Dims {
                        batch: 1,
                        length,
                        channels,
                        state,
                        complex: false,
                        groups: 1,
                    };
                    let plan = BackwardPlan::new(&dims, dtype, card);
                    assert!(plan.slices * WARP_STATES >= state, "{plan:?}");
                    assert!(plan.group_blocks * plan.channels() >= channels);
                    assert!((1..=plan.chunks).contains(&plan.segments), "{plan:?}");
                    assert!(plan.threads() <= 512, "{plan:?}");
                    // A large N needs the shared memory of the cards that have the most.
                    let most = if state <= 64 || dtype == DType::BF16 && state <= 128 {
                        card.shared_memory
                    } else {
                        HOPPER.shared_memory
                    };
                    assert!(plan.walk_bytes(dtype) <= most, "{plan:?} in {dtype}");
                }
            }
        }
    }

    #[test]
    fn blocks_are_wide_where_they_fill_the_card() {
        for (batch, channels, length, warps) in [
            (8, 1536, 2048, 4),
            (8, 4096, 2048, 8),
            (4, 4096, 2048, 8),
            (1, 1024, 131_072, 8),
            (1, 1024, 2048, 4),
        ] {
            let dims = Dims {
                batch,
                length,
                channels,
                state: 16,
                complex: false,
                groups: 1,
            };
            assert_eq!(
                BackwardPlan::new(&dims, DType::BF16, HOPPER).channel_warps,
                warps
            );
            assert_eq!(
                BackwardPlan::new(&dims, DType::F32, HOPPER).channel_warps,
                4
            );
            assert_eq!(
                BackwardPlan::new(&dims, DType::BF16, SMALL).channel_warps,
                4
            );
        }
    }

    #[test]
    fn few_channels_are_cut_into_segments_of_time() {
        assert_eq!(best_segments(384, 4, 64, 132).0, 1);
        assert_eq!(best_segments(512, 4, 64, 132).0, 1);
        assert!(best_segments(32, 4, 4096, 132).0 >= 12);
        assert!(best_segments(32, 4, 16, 132).0 >= 4);
    }
}
