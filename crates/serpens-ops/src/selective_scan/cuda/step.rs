//! One position of many sequences.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::super::{OP, StepDelta, StepOperands};
use super::{accessible, ptr};
use crate::check;

static SOURCE: Source = Source::new(
    "selective_scan_step",
    concat!(
        include_str!("../../shared/packet.cuh"),
        include_str!("decay.cuh"),
        include_str!("step.cu")
    ),
)
.params(&[ScanStepParams::declare])
.may_spill(|program| program.number("STATE") > Some(64));

/// Threads of a block and those that share a channel, as the kernel has them.
const THREADS: usize = 128;
const LANES: usize = 4;
/// Blocks of a multiprocessor, between which slots are shared out.
const BLOCKS: usize = 8;

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
        state: DevicePtr as "float*", // (slots, channels, STATE)
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
    let StepOperands {
        u,
        a,
        b,
        c,
        d,
        z,
        delta_bias,
        ..
    } = *operands;
    let (device, slots, channels, n) = (y.device(), u.rows(), u.cols(), a.cols());
    let (delta, weight) = match operands.delta {
        StepDelta::Given(delta) => (delta, None),
        StepDelta::LowRank { low, weight } => (low, Some(weight)),
    };
    let rank = weight.map_or(0, |weight| weight.cols());
    let fits = |access: &usize| accessible(&[a, state.as_view()], n, *access);
    let access = [4, 2].into_iter().find(fits).unwrap_or(1);
    let low = [Some(delta), weight].into_iter().flatten();
    let vector = accessible(&[b, c], n, access)
        && low
            .take(2 * rank.min(1))
            .all(|view| accessible(&[view], rank, 8));
    let blocks = channels.div_ceil(THREADS / LANES);
    let multiprocessors = properties(device)?.multiprocessors as usize;
    let slots_of_block = (slots * blocks).div_ceil(BLOCKS * multiprocessors);
    let stride = |view: Option<View<'_>>| view.map_or(0, |view| view.stride() as i64);
    let params = ScanStepParams {
        u: u.ptr(),
        delta: delta.ptr(),
        weight: ptr(weight),
        a: a.ptr(),
        b: b.ptr(),
        c: c.ptr(),
        d: ptr(d),
        z: ptr(z),
        delta_bias: ptr(delta_bias),
        state: state.ptr(),
        y: y.ptr(),
        u_stride: u.stride() as i64,
        delta_stride: delta.stride() as i64,
        weight_stride: stride(weight),
        b_stride: b.stride() as i64,
        c_stride: c.stride() as i64,
        z_stride: stride(z),
        state_stride: state.stride() as i64,
        y_stride: y.stride() as i64,
        slots: check::int(OP, "the number of slots", slots)?,
        slots_of_block: slots_of_block as i32,
        channels: check::int(OP, "the number of channels", channels)?,
    };
    let kernel = kernel(
        device,
        &SOURCE,
        "selective_scan_step",
        &[
            ("IO", u.dtype().cuda_name()),
            (
                "LOW",
                weight
                    .map_or(DType::F32, |weight| weight.dtype())
                    .cuda_name(),
            ),
            ("RANK", &rank.to_string()),
            ("STATE", &n.to_string()),
            ("WIDTH", &access.to_string()),
            ("VECTOR", super::flag(vector).as_str()),
        ],
    )?;
    let grid = [
        blocks as u32,
        slots.div_ceil(slots_of_block.max(1)) as u32,
        1,
    ];
    // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the kernel
    // waits for those before it, but for its weights, which nobody writes.
    unsafe { kernel.launch_early(grid, THREADS as u32, 0, &params) }
}
