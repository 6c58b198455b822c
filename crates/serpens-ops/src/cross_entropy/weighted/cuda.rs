//! Weighted cross-entropy on a GPU: a warp a row, sums of blocks of rows, then those in order.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, Tensor, Var, View, ViewMut, kernel_params};

use super::{Kept, OP, WORDS};
use crate::check;

static SOURCE: Source = Source::new("weighted_cross_entropy", include_str!("kernel.cu"))
    .params(&[WeightedParams::declare])
    .constants(&[("WARPS", WARPS as i32)]);

/// Rows that a block has at work, each a warp's.
const WARPS: usize = 8;
/// The most blocks whose sums one warp adds up.
const BLOCKS: usize = 1024;
/// The 32-bit words of the sums of a block.
const SUM_WORDS: usize = 10;

kernel_params! {
    struct WeightedParams {
        logits: DevicePtr as "IO*", // (rows, classes)
        targets: DevicePtr as "const u32*", // (rows)
        weights: DevicePtr as "const float*", // (classes)
        norms: DevicePtr as "float2*", // (rows): the largest logit, the sum of e^(x - largest)
        sums: DevicePtr as "struct Sums*", // of blocks; null backwards
        totals: DevicePtr as "struct Totals*", // null backwards
        loss: DevicePtr as "float*", // backwards its gradient
        weight: DevicePtr as "float*", // of all rows
        rows: i64,
        classes: i64,
        block_rows: i64, // rows of a block
        own: f32, // 1 - smoothing
        spread: f32, // smoothing / classes
        blocks: u32,
    }
}

impl WeightedParams {
    /// Those that both directions have.
    fn new(kept: &Kept, logits: DevicePtr, dtype: DType) -> Result<Self> {
        let (rows, classes) = (kept.targets.len(), kept.weights.len());
        let (device, smoothing) = (kept.targets.device(), kept.smoothing);
        check::float(OP, "logits", dtype)?;
        let address =
            |what, tensor: &Tensor, dtype| check::address(OP, what, &tensor.view(), dtype, device);
        let block_rows = rows.div_ceil(BLOCKS).next_multiple_of(WARPS).max(WARPS);
        Ok(Self {
            logits,
            targets: address("targets", &kept.targets, DType::U32)?,
            weights: address("weights", &kept.weights, DType::F32)?,
            norms: address("norms", &kept.norms, DType::F32)?,
            sums: DevicePtr::NULL,
            totals: DevicePtr::NULL,
            loss: DevicePtr::NULL,
            weight: address("the weight of all", &kept.weight, DType::F32)?,
            rows: rows as i64,
            classes: check::int(OP, "the classes", classes)?.into(),
            block_rows: block_rows as i64,
            own: 1.0 - smoothing,
            spread: smoothing / classes as f32,
            blocks: rows.div_ceil(block_rows) as u32,
        })
    }
}

/// The loss and the totals; norms and the weight of all rows are written to what is kept, which holds them alone.
pub(super) fn forward(logits: &Var, kept: &mut Kept) -> Result<[Tensor; 2]> {
    let (device, dtype) = (logits.device(), logits.dtype());
    let mut params = WeightedParams::new(kept, logits.tensor()?.view().ptr(), dtype)?;
    let empty = |words: usize, dtype| Tensor::empty([words], dtype, device);
    let mut sums = empty(params.blocks as usize * SUM_WORDS, DType::U32)?;
    let (mut loss, mut totals) = (empty(1, DType::F32)?, empty(WORDS, DType::U32)?);
    params.sums = sums.view_mut()?.ptr();
    params.totals = totals.view_mut()?.ptr();
    params.loss = loss.view_mut()?.ptr();
    let (grid, block) = ([params.blocks, 1, 1], WARPS as u32 * 32);
    let program = |entry| program(device, entry, dtype);
    // SAFETY: the parameters are the kernels', of operands that were checked; there are sums for every block, and the
    // logits are only read.
    unsafe {
        program("weighted_cross_entropy_rows")?.launch(grid, block, 0, &params)?;
        program("weighted_cross_entropy_fold")?.launch([1, 1, 1], 32, 0, &params)?;
    }
    Ok([loss, totals])
}

/// Writes dloss · ∂loss/∂logits over the logits.
pub(super) fn backward(logits: ViewMut<'_>, kept: &Kept, dloss: View<'_>) -> Result<()> {
    let (device, dtype) = (logits.device(), logits.dtype());
    let mut params = WeightedParams::new(kept, logits.ptr(), dtype)?;
    params.loss = check::address(OP, "dloss", &dloss, DType::F32, device)?;
    let (grid, block) = ([params.blocks, 1, 1], WARPS as u32 * 32);
    let kernel = program(device, "weighted_cross_entropy_backward", dtype)?;
    // SAFETY: as in `forward`; the logits are borrowed uniquely, and their rows have no gaps.
    unsafe { kernel.launch(grid, block, 0, &params) }
}

fn program(device: Device, entry: &'static str, dtype: DType) -> Result<Kernel> {
    kernel(device, &SOURCE, entry, &[("IO", dtype.cuda_name())])
}
