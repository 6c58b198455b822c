//! The program of the forward scan, and of the passes before segments of time.

use serpens_core::DType;
use serpens_core::cuda::{KernelParams, Source};

use super::launch::{KernelOptions, Program, ScanParams};
use super::plan::ForwardPlan;
use super::{Dims, flag, forward_few};
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
.constants(&[
    ("CHUNK", CHUNK as i32),
    ("COMBINE_THREADS", COMBINE_THREADS as i32),
])
.may_spill(|program| {
    let usual = program.number("VEC") > Some(1) && program.number("HELD") == Some(0);
    !usual || program.number("STATE") > Some(64)
});

/// Threads of a block of `selective_scan_combine`.
pub(super) const COMBINE_THREADS: usize = 128;

/// The program of a plan.
pub(super) fn program(
    plan: &ForwardPlan,
    dims: &Dims,
    dtype: DType,
    options: &KernelOptions,
) -> Program {
    if plan.for_few_channels(dims) {
        return forward_few::program(dims.state, dtype, options);
    }
    let shared = plan.shared_bytes(dims, dtype, options.starts);
    let defines = vec![
        ("IO", dtype.cuda_name().to_owned()),
        ("STATE", dims.state.to_string()),
        ("SPLIT", plan.split.to_string()),
        ("PER_LANE", plan.per_lane.to_string()),
        ("WARPS", plan.warps.to_string()),
        ("HELPERS", plan.helpers.to_string()),
        ("TILE", plan.tile.to_string()),
        ("STAGES", plan.stages.to_string()),
        ("BLOCKS", plan.blocks(shared).to_string()),
        ("WIDTH", plan.width.to_string()),
        ("VEC", options.vec.min(plan.width).to_string()),
        ("BC_VEC", options.bc_vec.to_string()),
        ("SHARED_BYTES", shared.to_string()),
        ("COMPLEX", flag(dims.complex)),
        ("GATED", flag(options.gated)),
        ("SOFTPLUS", flag(options.softplus)),
        ("STARTS", flag(options.starts)),
        ("HELD", flag(options.held)),
        ("PASS", (options.pass as u8).to_string()),
    ];
    Program {
        source: &SOURCE,
        name: "selective_scan_forward",
        defines,
        threads: 32 * (plan.warps + plan.helpers),
        shared,
    }
}
