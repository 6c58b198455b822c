//! Rows of a matrix inside a wider one: how kernels read and write a range of columns without a copy.

use std::marker::PhantomData;

use crate::driver::DevicePtr;
use crate::error::{expect_device, expect_dtype};
use crate::{DType, Device, Result};

/// A read-only (rows, cols) matrix whose rows are `stride` values apart. A tensor of shape (batch, length, channels) is
/// seen as batch·length rows of `channels` columns.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The columns `offset..offset + cols` of `data`, seen as `rows` rows of `stride` values.
    ///
    /// # Panics
    /// If `data` is shorter than the last row's end, or a row than its columns: callers have checked their shapes.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize, offset: usize) -> Self {
        assert!(offset + cols <= stride, "columns beyond the row");
        assert!(rows * stride <= data.len(), "rows beyond the data");
        let data = &data[offset.min(data.len())..];
        Self {
            data,
            rows,
            cols,
            stride,
        }
    }

    /// `data` as `data.len() / cols` rows without gaps.
    pub fn dense(data: &'a [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self::new(data, rows, cols, cols, 0)
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..i * self.stride + self.cols]
    }

    /// Columns `from..to` of row `i`.
    #[inline(always)]
    pub fn part(&self, i: usize, from: usize, to: usize) -> &'a [T] {
        &self.data[i * self.stride + from..i * self.stride + to]
    }

    /// All values of a matrix without gaps between its rows.
    ///
    /// # Panics
    /// Where there are gaps.
    pub fn into_slice(self) -> &'a [T] {
        assert!(
            self.rows <= 1 || self.stride == self.cols,
            "gaps between the rows"
        );
        &self.data[..self.rows * self.cols]
    }

    /// The address of the first value.
    pub fn as_ptr(&self) -> *const T {
        self.data.as_ptr()
    }
}

/// A writable (rows, cols) matrix whose rows are `stride` values apart.
///
/// Threads that write disjoint parts share it through [`MatMut::part`], which is unsafe for that reason.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a MatMut is a unique borrow of its values, like `&mut [T]`.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: through a shared reference only the unsafe `part` writes, whose callers promise disjoint parts.
unsafe impl<T: Send + Sync> Sync for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// The columns `offset..offset + cols` of `data`, seen as `rows` rows of `stride` values.
    ///
    /// # Panics
    /// As [`Mat::new`].
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize, offset: usize) -> Self {
        assert!(offset + cols <= stride, "columns beyond the row");
        assert!(rows * stride <= data.len(), "rows beyond the data");
        // SAFETY: the asserts above keep every (row, column) inside `data`, which is borrowed uniquely for 'a.
        unsafe { Self::from_raw(data.as_mut_ptr().wrapping_add(offset), rows, cols, stride) }
    }

    /// `data` as `data.len() / cols` rows without gaps.
    pub fn dense(data: &'a mut [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self::new(data, rows, cols, cols, 0)
    }

    /// A matrix at `data`.
    ///
    /// # Safety
    /// For 'a, the `cols` values at each of `data + i * stride`, i < rows, are valid, initialised and reached through nothing else.
    pub unsafe fn from_raw(data: *mut T, rows: usize, cols: usize, stride: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            stride,
            owner: PhantomData,
        }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        // SAFETY: `&mut self` makes this the only part in use.
        unsafe { self.part(i, 0, self.cols) }
    }

    /// Columns `from..to` of row `i`, through a shared reference.
    ///
    /// # Safety
    /// No other part that overlaps this one is in use, on this thread or another.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn part(&self, i: usize, from: usize, to: usize) -> &mut [T] {
        assert!(i < self.rows && from <= to && to <= self.cols);
        // SAFETY: inside the matrix by the assert, valid by construction, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride + from), to - from) }
    }

    /// All values of a matrix without gaps between its rows.
    ///
    /// # Panics
    /// Where there are gaps.
    pub fn into_slice(self) -> &'a mut [T] {
        assert!(
            self.rows <= 1 || self.stride == self.cols,
            "gaps between the rows"
        );
        // SAFETY: valid by construction, and `self` gives up its unique borrow.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.rows * self.cols) }
    }

    /// The same matrix, borrowed for less long.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            data: self.data,
            ..*self
        }
    }

    /// The address of the first value.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }
}

macro_rules! sizes {
    ($matrix:ident) => {
        impl<T> $matrix<'_, T> {
            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.rows
            }

            /// Number of columns.
            pub fn cols(&self) -> usize {
                self.cols
            }

            /// Distance between the starts of two rows, in values.
            pub fn stride(&self) -> usize {
                self.stride
            }
        }
    };
}

sizes!(Mat);
sizes!(MatMut);

/// Where a matrix lies on whatever device, and its sizes: what operations hand to their kernels.
#[derive(Clone, Copy, Debug)]
struct MatrixLayout {
    address: u64,
    rows: usize,
    cols: usize,
    stride: usize,
    dtype: DType,
    device: Device,
}

impl MatrixLayout {
    fn aligned(&self, bytes: usize) -> bool {
        let row = self.stride * self.dtype.size();
        self.address.is_multiple_of(bytes as u64) && (self.rows <= 1 || row.is_multiple_of(bytes))
    }

    /// Checks that the values are f32 on the processor.
    fn on_cpu(&self) -> Result<()> {
        expect_device("mat", "the tensor", Device::Cpu, self.device)?;
        expect_dtype("mat", "the tensor", DType::F32, self.dtype)
    }
}

/// A read-only matrix on any device, of any type, whose rows may lie inside wider ones.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    layout: MatrixLayout,
    owner: PhantomData<&'a [u8]>,
}

/// A writable matrix on any device, of any type, whose rows may lie inside wider ones.
#[derive(Debug)]
pub struct ViewMut<'a> {
    layout: MatrixLayout,
    owner: PhantomData<&'a mut [u8]>,
}

macro_rules! view {
    ($view:ident) => {
        impl<'a> $view<'a> {
            /// A matrix of `cols` columns at `address`, `stride` values from row to row.
            ///
            /// # Safety
            /// For 'a the values are valid on the device, and reached as the kind of borrow says.
            pub(crate) unsafe fn from_raw(
                address: u64,
                [rows, cols, stride]: [usize; 3],
                dtype: DType,
                device: Device,
            ) -> Self {
                let layout = MatrixLayout {
                    address,
                    rows,
                    cols,
                    stride,
                    dtype,
                    device,
                };
                Self {
                    layout,
                    owner: PhantomData,
                }
            }

            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.layout.rows
            }

            /// Number of columns.
            pub fn cols(&self) -> usize {
                self.layout.cols
            }

            /// Distance between the starts of two rows, in values.
            pub fn stride(&self) -> usize {
                self.layout.stride
            }

            /// The type of the values.
            pub fn dtype(&self) -> DType {
                self.layout.dtype
            }

            /// Where the values are.
            pub fn device(&self) -> Device {
                self.layout.device
            }

            /// The address of the first value, as kernels of a GPU take it.
            pub fn ptr(&self) -> DevicePtr {
                DevicePtr(self.layout.address)
            }

            /// Whether every row starts at a multiple of this many bytes.
            pub fn aligned(&self, bytes: usize) -> bool {
                self.layout.aligned(bytes)
            }
        }
    };
}

view!(View);
view!(ViewMut);

impl<'a> View<'a> {
    /// The values for the kernels of the processor.
    ///
    /// # Errors
    /// Values that are not f32, or on another device.
    pub fn mat(self) -> Result<Mat<'a>> {
        self.layout.on_cpu()?;
        let MatrixLayout {
            address,
            rows,
            cols,
            stride,
            ..
        } = self.layout;
        let len = if rows == 0 {
            0
        } else {
            (rows - 1) * stride + cols
        };
        // SAFETY: valid by construction, f32 on the processor as was checked.
        let data = unsafe { std::slice::from_raw_parts(address as *const f32, len) };
        Ok(Mat {
            data,
            rows,
            cols,
            stride,
        })
    }
}

impl<'a> ViewMut<'a> {
    /// The values for the kernels of the processor.
    ///
    /// # Errors
    /// Values that are not f32, or on another device.
    pub fn mat(self) -> Result<MatMut<'a>> {
        self.layout.on_cpu()?;
        let layout = self.layout;
        // SAFETY: valid and unique by construction, f32 on the processor as was checked.
        Ok(unsafe {
            MatMut::from_raw(
                layout.address as *mut f32,
                layout.rows,
                layout.cols,
                layout.stride,
            )
        })
    }

    /// All values of a matrix without gaps, for the kernels of the processor.
    ///
    /// # Errors
    /// As [`ViewMut::mat`].
    pub fn slice(self) -> Result<&'a mut [f32]> {
        self.mat().map(MatMut::into_slice)
    }

    /// The same matrix, borrowed for less long.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut {
            layout: self.layout,
            owner: PhantomData,
        }
    }

    /// The same matrix for reading.
    pub fn as_view(&self) -> View<'_> {
        View {
            layout: self.layout,
            owner: PhantomData,
        }
    }
}
