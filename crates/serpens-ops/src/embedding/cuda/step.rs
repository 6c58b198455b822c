//! Rows by ids that are on the device, without a tape.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::super::OP;
use crate::check;
use crate::linear::Weight;
use crate::linear::cuda::{KINDS, StoredWeight};

static SOURCE: Source = Source::new("embedding_step", include_str!("step.cu"))
    .params(&[EmbeddingStepParams::declare])
    .constants(KINDS);

/// Threads of a block.
const THREADS: u32 = 256;

kernel_params! {
    struct EmbeddingStepParams {
        ids: DevicePtr as "const u32*", // (rows)
        table: DevicePtr as "const W*", // (vocabulary, width)
        scales: DevicePtr as "const u16*", // of blocks only
        y: DevicePtr as "float*", // (rows, width)
        stride: i64,
        y_stride: i64,
        width: i32,
        vocabulary: u32,
    }
}

/// y\[i\] = table\[ids\[i\]\] in f32; a row of NaN for an id outside the table.
///
/// # Errors
/// Operands of other types or on other devices; whatever the device fails with.
pub fn step(ids: View<'_>, table: Weight<'_>, y: ViewMut<'_>) -> Result<()> {
    let (device, [vocabulary, width]) = (y.device(), table.shape());
    let stored = StoredWeight::new(table)?;
    let address = check::address(OP, "table", &stored.weight, stored.weight.dtype(), device)?;
    let params = EmbeddingStepParams {
        ids: check::address(OP, "ids", &ids, DType::U32, device)?,
        table: address,
        scales: DevicePtr(address.0 + stored.scales as u64),
        y: check::address(OP, "y", &y.as_view(), DType::F32, device)?,
        stride: stored.stride as i64,
        y_stride: y.stride() as i64,
        width: check::int(OP, "the width", width)?,
        vocabulary: check::int(OP, "the vocabulary", vocabulary)? as u32,
    };
    let kind = stored.kind.to_string();
    let defines = [("WEIGHT", kind.as_str()), ("W", stored.types[0])];
    let kernel = kernel(device, &SOURCE, "embedding_step", &defines)?;
    // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the kernel
    // waits for those before it.
    unsafe { kernel.launch_early([y.rows() as u32, 1, 1], THREADS, 0, &params) }
}
