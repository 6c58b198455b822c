//! One token of many sequences.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Result, Tensor, ViewMut, kernel_params};

use super::super::{OP, StepDims, StepOperands};
use super::MOST_COLUMNS;
use crate::check;
use crate::rope::cuda::step as step_of_angles;

static SOURCE: Source = Source::new(
    "attention_step",
    concat!(
        include_str!("../../shared/packet.cuh"),
        include_str!("../../rope/angle.cuh"),
        include_str!("step.cu")
    ),
)
.params(&[AttentionStepParams::declare])
// Rows that allow no wide access.
.may_spill(|program| program.number("WIDTH") == Some(1));

/// Threads of a block, as the kernel has them.
const THREADS: u32 = 128;
/// Heads of q that a block has at most: as many as there are registers for.
const MOST_HEADS: usize = 8;
/// Blocks of a multiprocessor up to which the tokens of a slot are shared out, and tokens for which a block pays.
const BLOCKS: usize = 8;
const TOKENS: usize = 256;

kernel_params! {
    struct AttentionStepParams {
        q: DevicePtr as "const IO*", // (slots, heads · HEAD)
        k: DevicePtr as "const IO*", // (slots, kv_heads · HEAD)
        v: DevicePtr as "const IO*", // as k
        read: DevicePtr as "u32*", // (slots, 2): tokens before; blocks that have read that
        keys: DevicePtr as "CACHE*", // (slots, capacity, kv_heads · HEAD)
        cached: DevicePtr as "CACHE*", // values, as keys
        o: DevicePtr as "IO*", // (slots, heads · HEAD)
        ends: DevicePtr as "float2*", // (slots, heads, parts), where these are several
        values: DevicePtr as "float*", // (slots, heads, parts, HEAD), likewise
        q_stride: i64,
        k_stride: i64,
        v_stride: i64,
        read_stride: i64,
        keys_stride: i64,
        cached_stride: i64,
        o_stride: i64,
        step: u64 as "double", // of the angles: see rope
        heads: i32,
        kv_heads: i32,
        capacity: i32,
        window: i32,
        parts: i32,
        scale: f32, // times log₂ e
    }
}

/// Writes each slot's key and value into the caches, and what its query finds to `o`; turned by angles of the base
/// `rope`.
///
/// # Errors
/// More columns of a head than [`attention`](crate::attention::attention()) says; whatever the device fails with.
pub fn step(
    dims: &StepDims,
    operands: StepOperands<'_>,
    o: ViewMut<'_>,
    scale: f32,
    rope: Option<f32>,
) -> Result<()> {
    let device = o.device();
    let StepOperands {
        q,
        k,
        v,
        read,
        keys,
        values: cached,
    } = operands;
    check::range(OP, "the columns of a head", 1..MOST_COLUMNS + 1, dims.head)?;
    let shared_by = |heads: &usize| dims.group().is_multiple_of(*heads);
    let group = (1..=MOST_HEADS).rev().find(shared_by).unwrap_or(1);
    let blocks = dims.heads / group;
    let wanted = BLOCKS * properties(device)?.multiprocessors as usize;
    let most = dims.window.div_ceil(TOKENS);
    let parts = wanted.div_ceil((dims.slots * blocks).max(1)).min(most);
    let rows = if parts > 1 {
        dims.slots * dims.heads * parts
    } else {
        0
    };
    let mut found = Tensor::empty([rows * (2 + dims.head)], DType::F32, device)?;
    let ends = found.view_mut()?.ptr();
    let params = AttentionStepParams {
        q: q.ptr(),
        k: k.ptr(),
        v: v.ptr(),
        read: read.ptr(),
        keys: keys.ptr(),
        cached: cached.ptr(),
        o: o.ptr(),
        ends,
        values: DevicePtr(ends.0 + (rows * 2 * size_of::<f32>()) as u64),
        q_stride: q.stride() as i64,
        k_stride: k.stride() as i64,
        v_stride: v.stride() as i64,
        read_stride: read.stride() as i64,
        keys_stride: keys.stride() as i64,
        cached_stride: cached.stride() as i64,
        o_stride: o.stride() as i64,
        step: rope
            .map_or(0.0, |base| step_of_angles(dims.head, base))
            .to_bits(),
        heads: check::int(OP, "the heads", dims.heads)?,
        kv_heads: check::int(OP, "the heads of k", dims.kv_heads)?,
        capacity: check::int(OP, "the capacity", dims.capacity)?,
        window: check::int(OP, "the window", dims.window)?,
        parts: parts as i32,
        scale: scale * std::f32::consts::LOG2_E,
    };
    let caches = [keys.as_view(), cached.as_view()];
    let size = keys.dtype().size();
    let fits = |width: &usize| width * size <= 16 && check::accessible(&caches, dims.head, *width);
    let width = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
    let defines = [
        ("IO", q.dtype().cuda_name()),
        ("CACHE", keys.dtype().cuda_name()),
        ("HEAD", &dims.head.to_string()),
        ("GROUP", &group.to_string()),
        ("WIDTH", &width.to_string()),
        ("ROPE", if rope.is_some() { "1" } else { "0" }),
    ];
    let [all, together] = ["attention_step", "attention_step_parts"]
        .map(|entry| kernel(device, &SOURCE, entry, &defines));
    let grid = [dims.slots as u32, blocks as u32, parts as u32];
    // SAFETY: the parameters are the kernels', the views valid for the sizes that the caller has checked, and of
    // several parts there is a row for each of every head; the kernels wait for those before them.
    unsafe {
        all?.launch_early(grid, THREADS, 0, &params)?;
        if parts == 1 {
            return Ok(());
        }
        let grid = [dims.slots as u32, dims.heads as u32, 1];
        let threads = dims.head.next_multiple_of(32) as u32;
        together?.launch_early(grid, threads, 0, &params)
    }
}
