//! The gradients of the scan with a real A: how the work is divided, and the launches.

use serpens_core::cuda::{KernelParams, Source, properties};
use serpens_core::{DType, Result, View, ViewMut};

use super::launch::Program;
use super::segments::{Between, flow_back};
use super::walk::{BackwardScan, ScanBackwardParams, Walk};
use super::{Dims, accessible, flag};
use crate::check;
use crate::selective_scan::OP;
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_backward",
    concat!(
        include_str!("decay.cuh"),
        include_str!("segments.cuh"),
        include_str!("backward.cuh"),
        include_str!("backward.cu")
    ),
)
.params(&[ScanBackwardParams::declare])
.constants(&[("CHUNK", CHUNK as i32)])
// But what models run: bf16, 16 numbers of the state at most, accesses of several values, Euler's rule.
.may_spill(|program| {
    let hot = program.number("SLICES") == Some(1)
        && program.number("HELD") == Some(0)
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
        let of_group = dims.group_channels();
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
        let group_blocks = dims
            .group_channels()
            .div_ceil(WARP_CHANNELS * channel_warps);
        let blocks = dims.batch * dims.groups * group_blocks;
        let (segments, time) = best_segments(
            blocks,
            slices * channel_warps,
            dims.chunks(),
            multiprocessors,
        );
        let plan = Self {
            slices,
            channel_warps,
            steps_at_once,
            group_blocks,
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
            ("HELD", flag(options.held)),
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
    held: bool,
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

/// What the kernel is compiled for; it reaches rows by 32 bits for their number and for their stride.
fn kernel_options(back: &BackwardScan<'_>) -> Result<KernelOptions> {
    let (scan, grads, dout) = (back.scan, &back.grads, back.dout);
    let (dims, x) = (&scan.dims, &scan.operands);
    let wide = 16 / dout.dtype().size();
    let mut rows = vec![x.u, x.delta, dout];
    rows.extend([grads.u.as_view(), grads.delta.as_view()]);
    rows.extend(x.z);
    rows.extend(grads.z.as_ref().map(ViewMut::as_view));
    let group_rows = [x.b, x.c];
    for view in rows.iter().chain(&group_rows) {
        let stride = view.stride() * view.dtype().size();
        check::range(OP, "the bytes from row to row", 0..1 << 31, stride)?;
        check::range(OP, "the number of rows", 0..1 << 31, view.rows())?;
    }
    let mut states = vec![x.a, back.checkpoints];
    states.extend(back.dlast);
    states.extend(grads.initial_state.as_ref().map(ViewMut::as_view));
    Ok(KernelOptions {
        vec: access_width(&rows, dims.group_channels(), wide),
        bc_vec: access_width(&group_rows, dims.state, wide),
        state_vec: access_width(&states, dims.state, 4),
        gated: x.z.is_some(),
        starts: scan.starts.is_some(),
        held: scan.zero_order_hold,
    })
}

/// Computes every gradient.
pub(super) fn backward(back: &BackwardScan<'_>) -> Result<()> {
    let (device, dtype, dims) = (back.dout.device(), back.dout.dtype(), &back.scan.dims);
    let card = properties(device)?;
    let card = Card {
        multiprocessors: card.multiprocessors as usize,
        shared_memory: card.shared_memory,
    };
    let plan = BackwardPlan::new(dims, dtype, card);
    let program = Program {
        source: &SOURCE,
        name: "selective_scan_backward",
        defines: plan.defines(dtype, &kernel_options(back)?),
        threads: plan.threads(),
        shared: plan.walk_bytes(dtype),
    };
    let mut walk = Walk::new(back, plan.group_blocks, plan.segments)?;
    if plan.segments > 1 {
        let between = Between {
            carry: walk.params.carry,
            delta_sums: walk
                .workspace
                .take(plan.segments * dims.batch * dims.channels)?,
            segments: plan.segments,
        };
        // SAFETY: the caller has checked the sizes of the views, and the workspace was allocated for them.
        unsafe { flow_back(back.scan, back.dout, back.dlast, &between)? };
    }
    // SAFETY: the program is the kernel's, with the shared memory that it lays out; the views are valid as above.
    unsafe { walk.launch(&program) }
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
                    assert!((1..=dims.chunks()).contains(&plan.segments), "{plan:?}");
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
