//! The sums of what the blocks of a backward scan leave behind.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, View, kernel_params};

static SOURCE: Source = Source::new("selective_scan_fold", include_str!("fold.cu"))
    .params(&[GradientFoldParams::declare])
    .constants(&[
        ("FOLDS", FOLDS as i32),
        ("FOLD_THREADS", FOLD_THREADS as i32),
    ]);

const FOLD_THREADS: usize = 256;
const FOLDS: usize = 6;

kernel_params! {
    /// One of the sums that the last kernel makes.
    struct GradientFold {
        from: DevicePtr as "const float*",
        to: DevicePtr,
        stride: i64, // of the partials; in values, as the others
        row_stride: i64,
        to_stride: i64,
        items: i64, // of `width` values
        row_items: i32, // in a row
        count: i32, // of the partials
        width: i32, // 4 where all is aligned to it, or 1
        is_float: i32, // the type of `to`: f32, or IO
        first_block: i32,
    }

    struct GradientFoldParams {
        folds: [GradientFold; FOLDS],
    }
}

/// The terms of one sum: `count` matrices as large as the sum, in f32.
pub(super) struct Partials {
    pub from: DevicePtr,
    pub count: usize,
    pub stride: usize,
    pub row_stride: usize,
}

/// All sums of one backward scan, at most FOLDS.
#[derive(Default)]
pub(super) struct Folds {
    folds: Vec<GradientFold>,
    blocks: usize,
}

impl Folds {
    /// The sum of `partials`, into `to`.
    pub fn add(&mut self, partials: &Partials, to: &View<'_>) {
        let strides = [partials.stride, partials.row_stride, to.cols()];
        let wide = strides.iter().all(|stride| stride.is_multiple_of(4))
            && to.aligned(4 * to.dtype().size());
        let width = if wide { 4 } else { 1 };
        let row_items = to.cols() / width;
        let items = to.rows() * row_items;
        self.folds.push(GradientFold {
            from: partials.from,
            to: to.ptr(),
            stride: partials.stride as i64,
            row_stride: partials.row_stride as i64,
            to_stride: to.stride() as i64,
            items: items as i64,
            row_items: row_items as i32,
            count: partials.count as i32,
            width: width as i32,
            is_float: (to.dtype() == DType::F32).into(),
            first_block: self.blocks as i32,
        });
        self.blocks += items.div_ceil(FOLD_THREADS);
    }

    /// The sum over all sequences and segments of what blocks left without gaps.
    pub fn add_dense(&mut self, from: DevicePtr, count: usize, to: &View<'_>) {
        let partials = Partials {
            from,
            count,
            stride: to.rows() * to.cols(),
            row_stride: to.cols(),
        };
        self.add(&partials, to);
    }

    /// The kernel's parameter; folds that there are not begin behind the last block.
    fn params(&self) -> GradientFoldParams {
        let nothing = GradientFold {
            from: DevicePtr::NULL,
            to: DevicePtr::NULL,
            stride: 0,
            row_stride: 0,
            to_stride: 0,
            items: 0,
            row_items: 1,
            count: 0,
            width: 1,
            is_float: 1,
            first_block: i32::MAX,
        };
        let fold = |i| self.folds.get(i).copied().unwrap_or(nothing);
        GradientFoldParams {
            folds: std::array::from_fn(fold),
        }
    }

    /// Queues the kernel, where operands are of the type `io`.
    ///
    /// # Safety
    /// All addresses are valid on the device for the sizes given with them.
    pub unsafe fn launch(&self, device: Device, io: DType) -> Result<()> {
        let defines = [("IO", io.cuda_name())];
        let kernel = kernel(device, &SOURCE, "selective_scan_fold", &defines)?;
        let grid = [self.blocks as u32, 1, 1];
        // SAFETY: the parameters are the kernel's, its addresses valid, as the caller says.
        unsafe { kernel.launch(grid, FOLD_THREADS as u32, 0, &self.params()) }
    }
}
