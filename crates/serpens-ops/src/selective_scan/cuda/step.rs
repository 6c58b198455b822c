//! One position of many sequences.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::super::{OP, StepDelta, StepOperands};
use super::{accessible, ptr};
use crate::check;

static FEW: Source = source(
    "selective_scan_step",
    concat!(
        include_str!("../../shared/packet.cuh"),
        include_str!("decay.cuh"),
        include_str!("step.cu")
    ),
)
.may_spill(|program| program.number("STATE") > Some(64) || program.number("HELD") == Some(1));
static MANY: Source = source(
    "selective_scan_step_many",
    concat!(
        include_str!("../../shared/packet.cuh"),
        include_str!("decay.cuh"),
        include_str!("step_many.cu")
    ),
)
.may_spill(|program| program.number("HELD") == Some(1));

const fn source(name: &'static str, text: &'static str) -> Source {
    Source::new(name, text).params(&[ScanStepParams::declare])
}

/// Threads of a block and those that share a channel, as the kernels have them.
const THREADS: usize = 128;
const LANES: usize = 4;
/// Blocks of a multiprocessor, between which slots are shared out: of few slots, and of many.
const BLOCKS: usize = 8;
const MANY_BLOCKS: usize = 6;
/// Slots up to which the kernel for few is the faster one (docs/kernels.md, "Decoding on a GPU").
const FEW_SLOTS: usize = 8;
/// What the kernel for many takes at most: slots of a block, states of a channel, and the rank of Δ.
const MOST_SLOTS: usize = 8;
const MOST_STATES: usize = 32;
const MOST_RANK: usize = 256;

kernel_params! {
    struct ScanStepParams {
        u: DevicePtr as "const IO*", // (slots, channels)
        delta: DevicePtr as "const IO*", // (slots, RANK), or (slots, channels) where that is 0
        weight: DevicePtr as "const LOW*", // (channels, RANK)
        a: DevicePtr as "const float*", // (channels, STATE)
        b: DevicePtr as "const IO*", // (slots, STATE)
        c: DevicePtr as "const IO*", // (slots, STATE)
        d: DevicePtr as "const float*", // (channels), or null
        z: DevicePtr as "const IO*", // (slots, channels), or null
        delta_bias: DevicePtr as "const float*", // (channels), or null
        state: DevicePtr as "H*", // (slots, channels, STATE)
        y: DevicePtr as "IO*", // (slots, channels)
        u_stride: i64,
        delta_stride: i64,
        weight_stride: i64,
        b_stride: i64,
        c_stride: i64,
        z_stride: i64,
        state_stride: i64,
        y_stride: i64,
        slots: i32,
        slots_of_block: i32,
        channels: i32,
    }
}

/// y = (<C, h> + D u) silu(z) for each slot, whose state h is moved on.
///
/// # Errors
/// A device that fails.
pub fn step(operands: &StepOperands<'_>, state: ViewMut<'_>, y: ViewMut<'_>) -> Result<()> {
    let (slots, blocks) = (y.rows(), y.cols().div_ceil(THREADS / LANES));
    let multiprocessors = properties(y.device())?.multiprocessors as usize;
    let shared_out = |blocks_at_once| (slots * blocks).div_ceil(blocks_at_once * multiprocessors);
    let (kernel, slots_of_block) = match many(operands, &state.as_view())? {
        Some(kernel) => {
            let own = shared_out(MANY_BLOCKS).next_multiple_of(LANES);
            (kernel, own.min(MOST_SLOTS))
        }
        None => (few(operands, &state.as_view())?, shared_out(BLOCKS).max(1)),
    };
    let params = params(operands, &state, &y, slots_of_block)?;
    let grid = [blocks as u32, slots.div_ceil(slots_of_block) as u32, 1];
    // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the kernel
    // waits for those before it, but for its weights, which no kernel queued shortly before it writes.
    unsafe { kernel.launch_early(grid, THREADS as u32, 0, &params) }
}

/// Δ, or the rows and the weight that it is the product of.
fn delta<'a>(operands: &StepOperands<'a>) -> (View<'a>, Option<View<'a>>) {
    match operands.delta {
        StepDelta::Given(delta) => (delta, None),
        StepDelta::LowRank { low, weight } => (low, Some(weight)),
    }
}

/// The kernel for many slots, where it is one for these operands.
fn many(x: &StepOperands<'_>, state: &View<'_>) -> Result<Option<Kernel>> {
    let (n, (low, weight)) = (x.a.cols(), delta(x));
    let Some(weight) = weight else {
        return Ok(None);
    };
    let rank = weight.cols();
    let fits = [x.u.dtype(), weight.dtype()] == [DType::BF16; 2]
        && (n <= MOST_STATES && accessible(&[x.a, *state, x.b, x.c], n, 4))
        && (rank <= MOST_RANK && accessible(&[low, weight], rank, 8));
    if !fits || x.u.rows() <= FEW_SLOTS {
        return Ok(None);
    }
    let defines = [
        ("H", state.dtype().cuda_name()),
        ("RANK", &rank.to_string()),
        ("STATE", &n.to_string()),
        ("IO", "bf16"),
        ("LOW", "bf16"),
        ("HELD", &super::flag(x.zero_order_hold)),
    ];
    kernel(state.device(), &MANY, MANY.name, &defines).map(Some)
}

/// The kernel for few slots, of any operands.
fn few(x: &StepOperands<'_>, state: &View<'_>) -> Result<Kernel> {
    let (n, (low, weight)) = (x.a.cols(), delta(x));
    let rank = weight.map_or(0, |weight| weight.cols());
    let fits = |access: &usize| accessible(&[x.a, *state], n, *access);
    let access = [4, 2].into_iter().find(fits).unwrap_or(1);
    let low_ranks = weight.is_none_or(|weight| accessible(&[low, weight], rank, 8));
    let vector = low_ranks && accessible(&[x.b, x.c], n, access);
    let of_weight = weight.map_or(DType::F32, |weight| weight.dtype());
    let defines = [
        ("IO", x.u.dtype().cuda_name()),
        ("H", state.dtype().cuda_name()),
        ("LOW", of_weight.cuda_name()),
        ("RANK", &rank.to_string()),
        ("STATE", &n.to_string()),
        ("WIDTH", &access.to_string()),
        ("VECTOR", &super::flag(vector)),
        ("HELD", &super::flag(x.zero_order_hold)),
    ];
    kernel(state.device(), &FEW, FEW.name, &defines)
}

fn params(
    x: &StepOperands<'_>,
    state: &ViewMut<'_>,
    y: &ViewMut<'_>,
    slots_of_block: usize,
) -> Result<ScanStepParams> {
    let (delta, weight) = delta(x);
    let stride = |view: Option<View<'_>>| view.map_or(0, |view| view.stride() as i64);
    Ok(ScanStepParams {
        u: x.u.ptr(),
        delta: delta.ptr(),
        weight: ptr(weight),
        a: x.a.ptr(),
        b: x.b.ptr(),
        c: x.c.ptr(),
        d: ptr(x.d),
        z: ptr(x.z),
        delta_bias: ptr(x.delta_bias),
        state: state.ptr(),
        y: y.ptr(),
        u_stride: x.u.stride() as i64,
        delta_stride: delta.stride() as i64,
        weight_stride: stride(weight),
        b_stride: x.b.stride() as i64,
        c_stride: x.c.stride() as i64,
        z_stride: stride(x.z),
        state_stride: state.stride() as i64,
        y_stride: y.stride() as i64,
        slots: check::int(OP, "the number of slots", y.rows())?,
        slots_of_block: slots_of_block as i32,
        channels: check::int(OP, "the number of channels", y.cols())?,
    })
}
