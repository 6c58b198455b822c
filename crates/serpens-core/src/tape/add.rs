//! Sums of gradients on the device.

use crate::driver::DevicePtr;
use crate::error::expect_device;
use crate::program::{KernelParams, Source, kernel};
use crate::{Error, Result, View, ViewMut, kernel_params};

static SOURCE: Source =
    Source::new("gradients", include_str!("add.cu")).params(&[AddParams::declare]);

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
    if (rows, cols) != (from.rows(), from.cols()) {
        let got = [from.rows(), from.cols()].into();
        let expected = format!("{rows} rows of {cols} values");
        return Err(Error::shape("backward", "a gradient", expected, got));
    }
    expect_device("backward", "a gradient", to.device(), from.device())?;
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crate::driver::{Properties, find};
    use crate::program::rehearse;
    use crate::{DType, Device, Error, LibraryKind, Result, Tensor};

    #[test]
    fn sums_of_every_type_and_alignment_compile_without_spills() {
        if let Err(reason) = find(LibraryKind::Nvrtc) {
            // Past the capture of tests; nobody hears it where the stream is closed.
            let _ = writeln!(
                std::io::stderr(),
                "sums of gradients were not compiled: {reason}"
            );
            return;
        }
        let work = |device: Device| -> Result<()> {
            for to in [DType::F32, DType::BF16] {
                for from in [DType::F32, DType::BF16] {
                    let mut to = Tensor::empty([4, 16], to, device)?;
                    let from = Tensor::empty([4, 16], from, device)?;
                    super::add(to.view_mut()?, from.view())?;
                }
            }
            Ok(())
        };
        for card in Properties::generations() {
            let programs = rehearse(&card, work).unwrap();
            assert_eq!(programs.len(), 4);
            for program in programs {
                let (_, kernels) = program.compile(card.capability).unwrap();
                assert_eq!(kernels.len(), 2);
                assert!(
                    kernels.iter().all(|kernel| kernel.spills == 0),
                    "{kernels:?}"
                );
            }
        }
        let mismatched = |device| {
            let mut to = Tensor::empty([2, 3], DType::F32, device)?;
            super::add(
                to.view_mut()?,
                Tensor::empty([2, 2], DType::F32, device)?.view(),
            )
        };
        let [card, ..] = Properties::generations();
        assert!(matches!(
            rehearse(&card, mismatched),
            Err(Error::Shape { .. })
        ));
    }
}
