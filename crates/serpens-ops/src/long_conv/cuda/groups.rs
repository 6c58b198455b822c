//! The gradient of the kernels as a sum over groups of items: blocks sum the items of a group, then the groups are
//! added in order.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Result, Tensor, ViewMut, kernel_params};

use super::grid;

static SOURCE: Source =
    Source::new("long_conv_fold", include_str!("fold.cu")).params(&[LongConvFoldParams::declare]);

/// Threads of a block, as the kernel has them.
const THREADS: usize = 256;

/// The items of a batch in groups, one for each block.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub(super) count: usize,
    /// Of a group; the last may have fewer.
    pub(super) items: usize,
}

impl Groups {
    /// As many groups as fill the card about twice, with `tiles` blocks for each and room for `resident` blocks on a
    /// multiprocessor.
    pub(super) fn new(device: Device, batch: usize, tiles: usize, resident: usize) -> Result<Self> {
        let blocks = 2 * resident * properties(device)?.multiprocessors as usize;
        let count = blocks.div_ceil(tiles).min(batch);
        let items = batch.div_ceil(count);
        Ok(Self {
            count: batch.div_ceil(items),
            items,
        })
    }
}

/// Where groups leave their sums on the way to dk.
pub(super) struct GroupSums<'a> {
    dk: ViewMut<'a>,
    sums: Option<Tensor>,
    groups: usize,
}

impl<'a> GroupSums<'a> {
    /// One group writes to dk itself.
    pub(super) fn new(dk: ViewMut<'a>, groups: usize) -> Result<Self> {
        let sums = (groups > 1)
            .then(|| Tensor::empty([groups, dk.rows(), dk.cols()], DType::F32, dk.device()))
            .transpose()?;
        Ok(Self { dk, sums, groups })
    }

    /// (groups, length, channels)
    pub(super) fn address(&mut self) -> Result<DevicePtr> {
        match &mut self.sums {
            Some(sums) => Ok(sums.view_mut()?.ptr()),
            None => Ok(self.dk.ptr()),
        }
    }

    /// Adds the groups up.
    pub(super) fn fold(self) -> Result<()> {
        match self.sums {
            Some(sums) => fold(sums.view().ptr(), self.groups, self.dk),
            None => Ok(()),
        }
    }
}

/// dk = 0: the sum of no groups.
pub(super) fn zero(dk: ViewMut<'_>) -> Result<()> {
    fold(DevicePtr::NULL, 0, dk)
}

kernel_params! {
    struct LongConvFoldParams {
        sums: DevicePtr as "const float*", // (groups, count)
        sum: DevicePtr as "float*", // (count)
        count: i64,
        groups: i64,
    }
}

fn fold(sums: DevicePtr, groups: usize, dk: ViewMut<'_>) -> Result<()> {
    let count = dk.rows() * dk.cols();
    let params = LongConvFoldParams {
        sums,
        sum: dk.ptr(),
        count: count as i64,
        groups: groups as i64,
    };
    let kernel = kernel(dk.device(), &SOURCE, "long_conv_fold", &[])?;
    // SAFETY: the parameters are the kernel's; there are `count` values in every group and in dk, which has no gaps.
    unsafe { kernel.launch(grid(count.div_ceil(THREADS)), THREADS as u32, 0, &params) }
}
