//! Rotation on a GPU.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{Result, View, ViewMut, kernel_params};

use super::{OP, Turn};
use crate::check;

static SOURCE: Source = Source::new(
    "rope",
    concat!(
        include_str!("../shared/packet.cuh"),
        include_str!("angle.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[RopeParams::declare])
.constants(&[("HEADS", HEADS as i32)]);

/// Threads of a block, and heads of a thread at most.
const THREADS: usize = 256;
const HEADS: usize = 4;

kernel_params! {
    struct RopeParams {
        x: DevicePtr as "const IO*", // (rows, heads · HEAD)
        y: DevicePtr as "IO*", // (rows, heads · HEAD)
        x_stride: i64,
        y_stride: i64,
        rows: i64,
        length: i64, // rows of a sequence
        from: i64, // the position of its first
        step: u64 as "double", // the bits of log₂ of the next
        ratio: u64 as "double", // the bits of what a pair turns by, beside the one before it
        heads: i32,
        threads_of_head: i32, // that share the heads of a row
        back: i32,
    }
}

/// What the pairs of a head turn by beside the one before, as log₂.
pub(crate) fn step(head: usize, base: f32) -> f64 {
    -2.0 * f64::from(base).log2() / head as f64
}

/// y = x with each row turned, or turned back.
///
/// # Errors
/// Operands of other types or on different devices; whatever the device fails with.
pub fn turn(x: View<'_>, y: ViewMut<'_>, turn: &Turn) -> Result<()> {
    let (dtype, device, head) = (x.dtype(), x.device(), turn.options.head);
    check::float(OP, "x", dtype)?;
    let fits = |vec: &usize| check::accessible(&[x, y.as_view()], head / 2, *vec);
    let vec = [8, 4, 2]
        .into_iter()
        .filter(|vec| vec * dtype.size() <= 16)
        .find(fits)
        .unwrap_or(1);
    let (heads, step) = (x.cols() / head, step(head, turn.options.base));
    let threads_of_head = heads.div_ceil(HEADS);
    let params = RopeParams {
        x: x.ptr(),
        y: check::address(OP, "y", &y.as_view(), dtype, device)?,
        x_stride: x.stride() as i64,
        y_stride: y.stride() as i64,
        rows: x.rows() as i64,
        length: turn.length as i64,
        from: turn.options.from as i64,
        step: step.to_bits(),
        ratio: step.exp2().to_bits(),
        heads: check::int(OP, "the columns of x", x.cols())? / head as i32,
        threads_of_head: threads_of_head as i32,
        back: turn.back.into(),
    };
    let defines = [
        ("IO", dtype.cuda_name()),
        ("HEAD", &head.to_string()),
        ("VEC", &vec.to_string()),
    ];
    let kernel = kernel(device, &SOURCE, "rope", &defines)?;
    let threads = x.rows() * threads_of_head * (head / 2 / vec);
    let blocks = check::int(OP, "the blocks of values", threads.div_ceil(THREADS))? as u32;
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to; the kernel
    // waits for those before it.
    unsafe { kernel.launch_early([blocks, 1, 1], THREADS as u32, 0, &params) }
}
