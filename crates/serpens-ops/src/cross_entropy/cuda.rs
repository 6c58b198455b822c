//! Cross-entropy on a GPU: one launch counts the targets, one does all rows, one adds up.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Error, Result, Tensor, View, ViewMut, kernel_params};

use super::OP;
use crate::check;

static SOURCE: Source = Source::new("cross_entropy", include_str!("kernel.cu"))
    .params(&[CrossEntropyParams::declare, ScaleParams::declare]);

/// Bytes of a row that one warp does alone.
const SHORT_ROW: usize = 2 << 10;
/// Bytes of a row of which a multiprocessor has two at work, without those of all of them outgrowing the cache.
const LONG_ROW: usize = 128 << 10;
/// Threads of a block whose warps have a row each.
const BLOCK: u32 = 128;

kernel_params! {
    struct CrossEntropyParams {
        logits: DevicePtr as "IO*", // (rows, vocabulary)
        targets: DevicePtr as "const u32*", // (rows)
        losses: DevicePtr as "struct RowLoss*", // (rows)
        totals: DevicePtr as "struct Totals*",
        loss: DevicePtr as "float*",
        rows: i64,
        vocabulary: i64,
    }

    struct ScaleParams {
        gradient: DevicePtr as "IO*",
        factor: DevicePtr as "const float*",
        count: i64,
    }
}

/// One loss to compute.
pub(super) struct Pass {
    params: CrossEntropyParams,
    device: Device,
    dtype: DType,
    /// Loss and correctness of each row.
    _losses: Tensor,
}

impl Pass {
    /// The loss of logits `(rows, vocabulary)` against targets `(rows)`.
    pub(super) fn new(
        logits: View<'_>,
        targets: View<'_>,
        totals: ViewMut<'_>,
        loss: ViewMut<'_>,
    ) -> Result<Self> {
        let (device, dtype) = (logits.device(), logits.dtype());
        check::float(OP, "logits", dtype)?;
        check::dtype(OP, "targets", DType::U32, targets.dtype())?;
        check::int(OP, "the number of rows", logits.rows())?;
        check::int(OP, "the vocabulary", logits.cols())?;
        if logits.stride() != logits.cols() {
            return Err(Error::Columns { op: OP });
        }
        let mut losses = Tensor::empty([logits.rows(), 2], DType::U32, device)?;
        let params = CrossEntropyParams {
            logits: DevicePtr::NULL,
            targets: targets.ptr(),
            losses: losses.view_mut()?.ptr(),
            totals: totals.ptr(),
            loss: loss.ptr(),
            rows: logits.rows() as i64,
            vocabulary: logits.cols() as i64,
        };
        Ok(Self {
            params,
            device,
            dtype,
            _losses: losses,
        })
    }

    /// Computes loss and totals.
    ///
    /// # Safety
    /// The logits have the sizes, and what the pass was made with is alive.
    pub(super) unsafe fn loss_of(&self, logits: View<'_>) -> Result<()> {
        // SAFETY: without the gradient the logits are only read.
        unsafe { self.run(logits.ptr(), false) }
    }

    /// Computes loss and totals, and writes the loss's gradient over the logits.
    ///
    /// # Safety
    /// As for [`Pass::loss_of`].
    pub(super) unsafe fn gradient_over(&self, logits: ViewMut<'_>) -> Result<()> {
        // SAFETY: the logits are borrowed uniquely.
        unsafe { self.run(logits.ptr(), true) }
    }

    unsafe fn run(&self, logits: DevicePtr, gradient: bool) -> Result<()> {
        let params = CrossEntropyParams {
            logits,
            ..self.params
        };
        let warps = warps(params.vocabulary as usize, self.dtype);
        let [block, rows] = match warps {
            1 => [BLOCK, BLOCK / 32],
            _ => [warps * 32, 1],
        };
        let grid = (params.rows as u32).div_ceil(rows);
        let program = |entry| program(self.device, entry, self.dtype, warps, gradient);
        // SAFETY: the parameters are the kernels', valid as the caller promises; `losses` has a place for each row.
        unsafe {
            program("cross_entropy_count")?.launch([1, 1, 1], 1024, 0, &params)?;
            program("cross_entropy_rows")?.launch([grid, 1, 1], block, 0, &params)?;
            program("cross_entropy_fold")?.launch([1, 1, 1], 1024, 0, &params)
        }
    }
}

/// gradient ← factor · gradient, without touching it where the factor is 1.
pub(super) fn scale(gradient: ViewMut<'_>, factor: View<'_>) -> Result<()> {
    let device = gradient.device();
    let params = ScaleParams {
        gradient: gradient.ptr(),
        factor: factor.ptr(),
        count: (gradient.rows() * gradient.cols()) as i64,
    };
    let grid = properties(device)?.multiprocessors * 8;
    let (dtype, warps) = (gradient.dtype(), warps(gradient.cols(), gradient.dtype()));
    let kernel = program(device, "cross_entropy_scale", dtype, warps, true)?;
    // SAFETY: the parameters are the kernel's; the gradient is without gaps and borrowed uniquely.
    unsafe { kernel.launch([grid, 1, 1], 256, 0, &params) }
}

/// Warps that share a row.
fn warps(vocabulary: usize, dtype: DType) -> u32 {
    let bytes = vocabulary * dtype.size();
    if bytes <= SHORT_ROW {
        1
    } else if bytes <= LONG_ROW {
        16
    } else {
        32
    }
}

fn program(
    device: Device,
    entry: &'static str,
    dtype: DType,
    warps: u32,
    gradient: bool,
) -> Result<Kernel> {
    let warps = match warps {
        1 => "1",
        16 => "16",
        _ => "32",
    };
    let gradient = if gradient { "1" } else { "0" };
    let defines = [
        ("IO", dtype.cuda_name()),
        ("WARPS", warps),
        ("GRADIENT", gradient),
    ];
    kernel(device, &SOURCE, entry, &defines)
}
