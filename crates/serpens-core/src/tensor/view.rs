//! Rows of a matrix inside a wider one: how kernels read and write a range of columns without a copy.

use std::marker::PhantomData;
use std::ops::Range;

use crate::driver::{DevicePtr, memory};
use crate::error::{expect_device, expect_dtype};
use crate::{DType, Device, Element, Result};

/// A (rows, cols) matrix whose rows are `stride` values apart, wherever they are: see [`Mat`], [`MatMut`], [`View`],
/// [`ViewMut`]. A tensor of shape (batch, length, channels) is seen as batch·length rows of `channels` columns.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<V> {
    values: V,
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A read-only matrix on the processor.
pub type Mat<'a, T = f32> = Matrix<Shared<'a, T>>;

/// A writable matrix on the processor.
///
/// Threads that write disjoint parts share it through [`MatMut::part`], which is unsafe for that reason.
pub type MatMut<'a, T = f32> = Matrix<Unique<'a, T>>;

/// A read-only matrix on any device, of any type.
pub type View<'a> = Matrix<Values<&'a [u8]>>;

/// A writable matrix on any device, of any type.
pub type ViewMut<'a> = Matrix<Values<&'a mut [u8]>>;

/// The values of a [`Mat`], borrowed: those of its rows alone, for what lies between them others may write.
#[derive(Debug)]
pub struct Shared<'a, T> {
    first: *const T,
    owner: PhantomData<&'a [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: a shared borrow, like `&[T]`.
unsafe impl<T: Sync> Send for Shared<'_, T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Shared<'_, T> {}

/// The values of a [`MatMut`], borrowed uniquely.
#[derive(Debug)]
pub struct Unique<'a, T> {
    first: *mut T,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a unique borrow, like `&mut [T]`.
unsafe impl<T: Send> Send for Unique<'_, T> {}
// SAFETY: through a shared reference only the unsafe `part` writes, whose callers promise disjoint parts.
unsafe impl<T: Send + Sync> Sync for Unique<'_, T> {}

/// The values of a [`View`] or [`ViewMut`], borrowed as `B` says.
#[derive(Clone, Copy, Debug)]
pub struct Values<B> {
    first: DevicePtr,
    dtype: DType,
    device: Device,
    owner: PhantomData<B>,
}

impl<V> Matrix<V> {
    fn over(values: V, [rows, cols, stride]: [usize; 3]) -> Self {
        Self {
            values,
            rows,
            cols,
            stride,
        }
    }

    /// The columns from `offset` on of rows in `len` values.
    fn inside(values: V, len: usize, sizes: [usize; 3], offset: usize) -> Self {
        let [rows, cols, stride] = sizes;
        let within = |end: Option<usize>, len| end.is_some_and(|end| end <= len);
        let (columns, values_of_rows) = (offset.checked_add(cols), rows.checked_mul(stride));
        assert!(within(columns, stride), "columns beyond the row");
        assert!(within(values_of_rows, len), "rows beyond the data");
        Self::over(values, sizes)
    }

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

    /// Number of values of a matrix without gaps between its rows.
    fn dense_len(&self) -> usize {
        let dense = self.rows <= 1 || self.stride == self.cols;
        assert!(dense, "gaps between the rows");
        self.rows * self.cols
    }
}

impl<'a, T> Mat<'a, T> {
    /// The columns `offset..offset + cols` of `data`, seen as `rows` rows of `stride` values.
    ///
    /// # Panics
    /// If `data` is shorter than the last row's end, or a row than its columns: callers have checked their shapes.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize, offset: usize) -> Self {
        let (first, owner) = (data.as_ptr().wrapping_add(offset), PhantomData);
        let values = Shared { first, owner };
        Self::inside(values, data.len(), [rows, cols, stride], offset)
    }

    /// `data` as `data.len() / cols` rows without gaps.
    pub fn dense(data: &'a [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self::new(data, rows, cols, cols, 0)
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [T] {
        self.part(i, 0, self.cols)
    }

    /// Columns `from..to` of row `i`.
    ///
    /// # Panics
    /// If they are not inside.
    #[inline(always)]
    pub fn part(&self, i: usize, from: usize, to: usize) -> &'a [T] {
        assert!(i < self.rows && from <= to && to <= self.cols);
        let (first, start) = (self.values.first, i * self.stride + from);
        // SAFETY: inside the matrix by the assert, and valid by construction.
        unsafe { std::slice::from_raw_parts(first.add(start), to - from) }
    }

    /// All values of a matrix without gaps between its rows.
    ///
    /// # Panics
    /// Where there are gaps.
    pub fn into_slice(self) -> &'a [T] {
        // SAFETY: valid by construction.
        unsafe { std::slice::from_raw_parts(self.values.first, self.dense_len()) }
    }

    /// The address of the first value.
    pub fn as_ptr(&self) -> *const T {
        self.values.first
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The columns `offset..offset + cols` of `data`, seen as `rows` rows of `stride` values.
    ///
    /// # Panics
    /// As [`Mat::new`].
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize, offset: usize) -> Self {
        let (first, owner) = (data.as_mut_ptr().wrapping_add(offset), PhantomData);
        let values = Unique { first, owner };
        Self::inside(values, data.len(), [rows, cols, stride], offset)
    }

    /// `data` as `data.len() / cols` rows without gaps.
    pub fn dense(data: &'a mut [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self::new(data, rows, cols, cols, 0)
    }

    /// A matrix at `data`.
    ///
    /// # Safety
    /// For 'a, the `cols` values at each of `data + i * stride`, i < rows, are valid, initialised and reached through
    /// nothing else.
    pub unsafe fn from_raw(data: *mut T, rows: usize, cols: usize, stride: usize) -> Self {
        let (first, owner) = (data, PhantomData);
        Self::over(Unique { first, owner }, [rows, cols, stride])
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        // SAFETY: `&mut self` makes this the only part in use.
        unsafe { self.part(i, 0, self.cols) }
    }

    /// Columns `from..to` of row `i`, through a shared reference.
    ///
    /// # Panics
    /// If they are not inside.
    ///
    /// # Safety
    /// No other part that overlaps this one is in use, on this thread or another.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn part(&self, i: usize, from: usize, to: usize) -> &mut [T] {
        assert!(i < self.rows && from <= to && to <= self.cols);
        let (first, start) = (self.values.first, i * self.stride + from);
        // SAFETY: inside the matrix by the assert, valid by construction, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(first.add(start), to - from) }
    }

    /// All values of a matrix without gaps between its rows.
    ///
    /// # Panics
    /// Where there are gaps.
    pub fn into_slice(self) -> &'a mut [T] {
        // SAFETY: valid by construction, and `self` gives up its unique borrow.
        unsafe { std::slice::from_raw_parts_mut(self.values.first, self.dense_len()) }
    }

    /// The same matrix, borrowed for less long.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        // SAFETY: valid by construction, and `self` is borrowed uniquely.
        unsafe { MatMut::from_raw(self.values.first, self.rows, self.cols, self.stride) }
    }

    /// The address of the first value.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.values.first
    }
}

impl<B> Matrix<Values<B>> {
    /// A matrix of `cols` columns from `first` on, `stride` values from row to row.
    ///
    /// # Safety
    /// As long as the borrow says, the values are valid on the device, and reached as it says.
    pub(crate) unsafe fn at(
        first: DevicePtr,
        sizes: [usize; 3],
        dtype: DType,
        device: Device,
    ) -> Self {
        let values = Values {
            first,
            dtype,
            device,
            owner: PhantomData,
        };
        Self::over(values, sizes)
    }

    /// The type of the values.
    pub fn dtype(&self) -> DType {
        self.values.dtype
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        self.values.device
    }

    /// The address of the first value, as kernels of a GPU take it.
    pub fn ptr(&self) -> DevicePtr {
        self.values.first
    }

    /// Whether every row starts at a multiple of this many bytes.
    pub fn aligned(&self, bytes: usize) -> bool {
        let row = self.stride * self.dtype().size();
        self.ptr().0.is_multiple_of(bytes as u64) && (self.rows <= 1 || row.is_multiple_of(bytes))
    }

    /// A range of the columns.
    ///
    /// # Panics
    /// If it is not inside.
    pub fn columns(mut self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols);
        self.values.first.0 += (range.start * self.dtype().size()) as u64;
        self.cols = range.len();
        self
    }

    /// The first rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first_rows(mut self, rows: usize) -> Self {
        assert!(rows <= self.rows);
        self.rows = rows;
        self
    }

    /// All values of a matrix without gaps, seen as this many rows.
    ///
    /// # Panics
    /// Where there are gaps, or other rows of equal length.
    pub fn with_rows(mut self, rows: usize) -> Self {
        let len = self.dense_len();
        assert!(rows > 0 && len.is_multiple_of(rows));
        (self.rows, self.cols, self.stride) = (rows, len / rows, len / rows);
        self
    }

    /// The same matrix under another borrow.
    ///
    /// # Safety
    /// As of [`View::at`].
    unsafe fn lend<C>(&self) -> Matrix<Values<C>> {
        let sizes = [self.rows, self.cols, self.stride];
        // SAFETY: as the caller promises.
        unsafe { Matrix::at(self.ptr(), sizes, self.dtype(), self.device()) }
    }

    /// The first of values of this type on the processor.
    fn on_cpu<T: Element>(&self) -> Result<*mut T> {
        expect_device("mat", "the tensor", Device::Cpu, self.device())?;
        expect_dtype("mat", "the tensor", T::DTYPE, self.dtype())?;
        Ok(self.ptr().0 as *mut T)
    }
}

impl<'a> View<'a> {
    /// The f32 values for the kernels of the processor.
    ///
    /// # Errors
    /// As [`View::mat_of`].
    pub fn mat(self) -> Result<Mat<'a>> {
        self.mat_of()
    }

    /// The values for kernels of the processor that take this type.
    ///
    /// # Errors
    /// Values of another type, or on another device.
    pub fn mat_of<T: Element>(self) -> Result<Mat<'a, T>> {
        let (first, owner) = (self.on_cpu::<T>()?.cast_const(), PhantomData);
        let values = Shared { first, owner };
        Ok(Mat::over(values, [self.rows, self.cols, self.stride]))
    }
}

impl<'a> ViewMut<'a> {
    /// The values for the kernels of the processor.
    ///
    /// # Errors
    /// Values that are not f32, or on another device.
    pub fn mat(self) -> Result<MatMut<'a>> {
        self.mat_of()
    }

    /// The values for kernels of the processor that take this type.
    ///
    /// # Errors
    /// Values of another type, or on another device.
    pub fn mat_of<T: Element>(self) -> Result<MatMut<'a, T>> {
        let first = self.on_cpu()?;
        // SAFETY: valid and unique by construction, of this type on the processor as was checked.
        Ok(unsafe { MatMut::from_raw(first, self.rows, self.cols, self.stride) })
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
        // SAFETY: valid by construction, and `self` is borrowed uniquely.
        unsafe { self.lend() }
    }

    /// The columns before `at`, and the others.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        let (start, end) = (0..at, at..self.cols);
        // SAFETY: valid by construction, and no column is in both.
        let first = unsafe { self.lend() };
        (Self::columns(first, start), self.columns(end))
    }

    /// The same matrix for reading.
    pub fn as_view(&self) -> View<'_> {
        // SAFETY: valid by construction, and `self` is borrowed.
        unsafe { self.lend() }
    }

    /// Sets every value to zero, of whatever type.
    pub(crate) fn zero(self) -> Result<()> {
        let (first, size) = (self.ptr().0, self.dtype().size());
        let (width, pitch) = (self.cols * size, self.stride * size);
        // SAFETY: valid by construction and borrowed uniquely; zero bytes are the value zero.
        unsafe {
            match self.device() {
                Device::Cpu if width == 0 => Ok(()), // of however many rows
                Device::Cpu => {
                    let row = |i| (first as *mut u8).add(i * pitch);
                    (0..self.rows).for_each(|i| row(i).write_bytes(0, width));
                    Ok(())
                }
                device => memory::zero_rows(device, first, self.rows, width, pitch),
            }
        }
    }
}
