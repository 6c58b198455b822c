//! Sums of gradients on the device.

use super::memory::DevicePtr;
use super::{KernelParams, Source, Variant, kernel};
use crate::{DType, Error, Result, View, ViewMut, kernel_params};

static SOURCE: Source =
    Source::new("gradients", include_str!("gradients.cu")).params(&[AddParams::declare]);

kernel_params! {
    struct AddParams {
        to: DevicePtr as "IO*",
        from: DevicePtr as "const FROM*",
        to_stride: i64,
        from_stride: i64,
        rows: i64,
        cols: i64,
    }
}

/// to += from, of equal size, each f32 or bf16.
pub(crate) fn add(to: ViewMut<'_>, from: View<'_>) -> Result<()> {
    let (rows, cols) = (to.rows(), to.cols());
    if (rows, cols) != (from.rows(), from.cols()) || to.device() != from.device() {
        return Err(Error::argument(
            "backward",
            "gradients of different sizes or devices meet",
        ));
    }
    let dense = rows <= 1 || (to.stride() == cols && from.stride() == cols);
    let wide = dense && (rows * cols).is_multiple_of(8) && to.aligned(16) && from.aligned(16);
    let (entry, per_block) = if wide {
        ("add_all", 2048)
    } else {
        ("add_rows", 256)
    };
    let defines = [
        ("IO", to.dtype().cuda_name()),
        ("FROM", from.dtype().cuda_name()),
    ];
    let kernel = kernel(to.device(), &SOURCE, entry, &defines)?;
    let blocks = (rows * cols).div_ceil(per_block).min(1 << 14) as u32;
    let params = AddParams {
        to: to.ptr(),
        from: from.ptr(),
        to_stride: to.stride() as i64,
        from_stride: from.stride() as i64,
        rows: rows as i64,
        cols: cols as i64,
    };
    // SAFETY: the parameters are the kernel's; the views are valid for their sizes, and `to` is borrowed uniquely.
    unsafe { kernel.launch([blocks, 1, 1], 256, 0, &params) }
}

/// The programs of this crate.
pub fn variants() -> Vec<Variant> {
    let types = [DType::F32, DType::BF16];
    let pairs = types
        .iter()
        .flat_map(|to| types.iter().map(move |from| (to, from)));
    pairs
        .map(|(to, from)| Variant {
            source: &SOURCE,
            defines: vec![
                ("IO", to.cuda_name().to_owned()),
                ("FROM", from.cuda_name().to_owned()),
            ],
            hot: true,
        })
        .collect()
}
