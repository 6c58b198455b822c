//! Contiguous, row-major, reference-counted tensors.

mod device;
pub(crate) mod pool;
mod view;

use std::any::Any;
use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use pool::MemoryStats;
use view::Values;
pub use view::{Mat, MatMut, Matrix, View, ViewMut};

use crate::driver::{DevicePtr, memory};
use crate::error::{expect_count, expect_device, expect_dtype, expect_multiple, expect_range};
use crate::{DType, Device, Element, Error, Result, Shape};
use pool::Buffer;

/// An n-dimensional array. Cloning shares the values; [`Tensor::make_mut`] copies them first where they are shared, so
/// a tensor never changes under another holder.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    dtype: DType,
    buffer: Arc<Buffer>,
}

impl Tensor {
    /// A tensor with any contents, to be overwritten.
    pub fn empty(shape: impl Into<Shape>, dtype: DType, device: Device) -> Result<Self> {
        let shape = shape.into();
        let buffer = Arc::new(Buffer::new(byte_len(shape, dtype)?, device)?);
        Ok(Self {
            shape,
            dtype,
            buffer,
        })
    }

    /// A tensor in memory that is somebody else's, such as another framework's tensor, without a copy. `owner` keeps it
    /// alive and is dropped with the last tensor that shares it. Writing goes to that memory in place, unless another
    /// tensor shares it: then to a copy. The other way, [`Tensor::view`] gives the address of a tensor's values, for as
    /// long as the tensor lives.
    ///
    /// # Safety
    /// The values at `address` are contiguous, initialised and of this shape and type, also where there are none; until
    /// `owner` is dropped they are valid on the device, and nothing else writes them, or reads what is written here,
    /// but in order on a stream. Work that was queued before the owner is dropped may still be waiting then.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Multiple`] for an address that is not aligned to its values.
    pub unsafe fn borrowed(
        address: DevicePtr,
        shape: impl Into<Shape>,
        dtype: DType,
        device: Device,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self> {
        let shape = shape.into();
        byte_len(shape, dtype)?;
        let (op, at) = ("Tensor::borrowed", address.0 as usize);
        expect_multiple(op, "the address", dtype.size(), at)?;
        let buffer = Arc::new(Buffer::lent(address.0, device, owner));
        Ok(Self {
            shape,
            dtype,
            buffer,
        })
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, dtype, device)?;
        tensor.view_mut()?.zero()?;
        Ok(tensor)
    }

    /// A tensor with every value equal to `value`.
    pub fn full<T: Element>(shape: impl Into<Shape>, value: T, device: Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, T::DTYPE, device)?;
        match device {
            Device::Cpu => tensor.make_mut::<T>()?.fill(value),
            // SAFETY: the buffer holds at least that many values.
            Device::Cuda(_) => unsafe {
                let (to, count) = (tensor.address_mut()?, tensor.len());
                memory::fill(device, to, bytemuck::bytes_of(&value), count)?;
            },
        }
        Ok(tensor)
    }

    /// A tensor with the values of `values`, row by row.
    ///
    /// # Errors
    /// [`Error::Count`] where their number is not that of the shape.
    pub fn from_slice<T: Element>(
        shape: impl Into<Shape>,
        values: &[T],
        device: Device,
    ) -> Result<Self> {
        let shape = shape.into();
        expect_count("Tensor::from_slice", "values", shape.count(), values.len())?;
        let mut tensor = Self::empty(shape, T::DTYPE, device)?;
        tensor.write(bytemuck::cast_slice(values))?;
        Ok(tensor)
    }

    /// The same values on `device`; shared where they are there already. Values that come from a GPU are waited for.
    pub fn to(&self, device: Device) -> Result<Self> {
        let from = self.device();
        if from == device {
            return Ok(self.clone());
        }
        let mut copy = Self::empty(self.shape, self.dtype, device)?;
        match (from, device) {
            (Device::Cpu, _) => copy.write(self.as_bytes()?)?,
            (_, Device::Cpu) => {
                // SAFETY: both tensors have as many bytes.
                unsafe { memory::download(from, copy.bytes_mut()?, self.buffer.address)? };
            }
            _ => return self.to(Device::Cpu)?.to(device),
        }
        Ok(copy)
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        self.buffer.device
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.count()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values under another shape with as many.
    ///
    /// # Errors
    /// [`Error::Shape`] where it has more or fewer; [`Error::TooLarge`].
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.count() != self.len() {
            let expected = format!("as many values as {shape}");
            return Err(Error::shape("reshape", "the tensor", expected, self.shape));
        }
        byte_len(shape, self.dtype)?;
        Ok(Self {
            shape,
            ..self.clone()
        })
    }

    /// A copy of these places of the first axis.
    ///
    /// # Errors
    /// [`Error::Range`] where there are no such places; memory.
    pub fn narrow(&self, places: Range<usize>) -> Result<Self> {
        const OP: &str = "narrow";
        let [all, rest @ ..] = &self.shape[..] else {
            return Err(Error::shape(OP, "the tensor", "an axis", self.shape));
        };
        expect_range(
            OP,
            "the end of the places",
            places.start..all + 1,
            places.end,
        )?;
        let shape = Shape::try_from(&[&[places.len()], rest].concat()[..])?;
        let mut copy = Self::empty(shape, self.dtype, self.device())?;
        let each = rest.iter().product::<usize>() * self.dtype.size();
        let (from, to) = (self.buffer.address, copy.address_mut()?);
        // SAFETY: the places lie inside the tensor, and the copy holds as many bytes.
        unsafe {
            copy_bytes(
                self.device(),
                from + (places.start * each) as u64,
                to,
                copy.byte_len(),
            )?
        };
        Ok(copy)
    }

    /// Copies `rows` to the places of the first axis from `at` on. Where no other tensor shares the values this happens
    /// in place.
    ///
    /// # Errors
    /// [`Error::Range`] where there are no such places; [`Error::Shape`], [`Error::DType`] and [`Error::Device`] where
    /// the rows are others; memory.
    pub fn put(&mut self, at: usize, rows: &Self) -> Result<()> {
        const OP: &str = "put";
        expect_dtype(OP, "the rows", self.dtype, rows.dtype)?;
        expect_device(OP, "the rows", self.device(), rows.device())?;
        if rows.shape.is_empty()
            || rows.shape.len() != self.shape.len()
            || rows.shape[1..] != self.shape[1..]
        {
            let expected = format!("the axes of {} but the first", self.shape);
            return Err(Error::shape(OP, "the rows", expected, rows.shape));
        }
        let end = at.saturating_add(rows.shape[0]);
        expect_range(OP, "the end of the places", 0..self.shape[0] + 1, end)?;
        let each = self.shape[1..].iter().product::<usize>() * self.dtype.size();
        let (from, to) = (rows.buffer.address, self.address_mut()?);
        // SAFETY: the places lie inside the tensor, which is unshared, and the rows hold as many bytes.
        unsafe {
            copy_bytes(
                self.device(),
                from,
                to + (at * each) as u64,
                rows.byte_len(),
            )
        }
    }

    /// Tensors one behind the other along the first axis.
    ///
    /// # Errors
    /// [`Error::Shape`] where their other axes differ, or there are none; [`Error::DType`], [`Error::Device`] where
    /// those differ; memory.
    pub fn concat<T: Borrow<Self>>(tensors: &[T]) -> Result<Self> {
        const OP: &str = "concat";
        let Some(first) = tensors.first().map(T::borrow) else {
            return Err(Error::shape(
                OP,
                "the first tensor",
                "one at least",
                [0].into(),
            ));
        };
        let mut all = 0;
        for tensor in tensors.iter().map(T::borrow) {
            expect_dtype(OP, "a tensor", first.dtype, tensor.dtype)?;
            expect_device(OP, "a tensor", first.device(), tensor.device())?;
            if tensor.shape.is_empty() || tensor.shape[1..] != first.shape[1..] {
                let expected = format!("the axes of {} but the first", first.shape);
                return Err(Error::shape(OP, "a tensor", expected, tensor.shape));
            }
            all += tensor.shape[0];
        }
        let shape = Shape::try_from(&[&[all], &first.shape[1..]].concat()[..])?;
        let mut joined = Self::empty(shape, first.dtype, first.device())?;
        let mut to = joined.address_mut()?;
        for tensor in tensors.iter().map(T::borrow) {
            let (from, bytes) = (tensor.buffer.address, tensor.byte_len());
            // SAFETY: what is joined has as many bytes as all of them together.
            unsafe { copy_bytes(tensor.device(), from, to, bytes)? };
            to += bytes as u64;
        }
        Ok(joined)
    }

    /// The values, row by row.
    ///
    /// # Errors
    /// [`Error::DType`] where they are not of type `T`; [`Error::Device`] where they are not on the processor: copy
    /// them with [`Tensor::to`] or [`Tensor::to_vec`].
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        expect_dtype("as_slice", "the tensor", T::DTYPE, self.dtype)?;
        Ok(bytemuck::cast_slice(self.as_bytes()?))
    }

    /// The values for writing; they are copied first where another tensor shares them.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`]; [`Error::OutOfMemory`] where the copy does not fit.
    pub fn make_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        expect_dtype("make_mut", "the tensor", T::DTYPE, self.dtype)?;
        Ok(bytemuck::cast_slice_mut(self.bytes_mut()?))
    }

    /// The values' bytes, in the machine's order.
    ///
    /// # Errors
    /// [`Error::Device`] where they are not on the processor.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        expect_device("as_bytes", "the tensor", Device::Cpu, self.device())?;
        let first = self.buffer.address as *const u8;
        // SAFETY: the buffer holds at least that many initialised bytes, written through `make_mut` only.
        Ok(unsafe { std::slice::from_raw_parts(first, self.byte_len()) })
    }

    /// A copy of the values, from whatever device.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.to(Device::Cpu)?.as_slice().map(<[T]>::to_vec)
    }

    /// The tensor as a matrix of [`Shape::rows`] by [`Shape::cols`] on its device.
    pub fn view(&self) -> View<'_> {
        // SAFETY: the buffer is borrowed.
        unsafe { self.matrix() }
    }

    /// The tensor as a writable matrix of [`Shape::rows`] by [`Shape::cols`] on its device.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        self.address_mut()?;
        // SAFETY: the buffer is unshared and borrowed mutably.
        Ok(unsafe { self.matrix() })
    }

    /// # Safety
    /// The buffer is reached as the borrow `B` says, for as long.
    unsafe fn matrix<B>(&self) -> Matrix<Values<B>> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        let (first, sizes) = (DevicePtr(self.buffer.address), [rows, cols, cols]);
        // SAFETY: the buffer holds as many values; the rest is the caller's promise.
        unsafe { Matrix::at(first, sizes, self.dtype, self.device()) }
    }

    /// An f32 tensor as a matrix of [`Shape::rows`] by [`Shape::cols`].
    pub fn mat(&self) -> Result<Mat<'_>> {
        self.view().mat()
    }

    /// An f32 tensor as a writable matrix of [`Shape::rows`] by [`Shape::cols`].
    pub fn mat_mut(&mut self) -> Result<MatMut<'_>> {
        self.view_mut()?.mat()
    }

    /// The address of the values on their device, unshared.
    pub(crate) fn address_mut(&mut self) -> Result<u64> {
        if Arc::get_mut(&mut self.buffer).is_none() {
            let (bytes, device) = (self.byte_len(), self.device());
            let copy = Buffer::new(bytes, device)?;
            let (from, to) = (self.buffer.address, copy.address);
            // SAFETY: both buffers hold at least `bytes` bytes on one device and are different allocations.
            unsafe { copy_bytes(device, from, to, bytes)? };
            self.buffer = Arc::new(copy);
        }
        Ok(self.buffer.address)
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Fills the tensor with as many bytes as it has, whatever its device.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.device() {
            Device::Cpu => self.bytes_mut()?.copy_from_slice(bytes),
            // SAFETY: the buffer holds as many bytes.
            device => unsafe { memory::upload(device, self.address_mut()?, bytes)? },
        }
        Ok(())
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        expect_device("bytes_mut", "the tensor", Device::Cpu, self.device())?;
        let bytes = self.byte_len();
        let address = self.address_mut()? as *mut u8;
        // SAFETY: the buffer holds at least `bytes` initialised bytes and is unshared.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, bytes) })
    }
}

/// Copies inside a device's memory.
///
/// # Safety
/// Both addresses are valid there for as many bytes, which do not overlap.
unsafe fn copy_bytes(device: Device, from: u64, to: u64, bytes: usize) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe {
        match device {
            Device::Cpu => (from as *const u8).copy_to_nonoverlapping(to as *mut u8, bytes),
            Device::Cuda(_) => memory::copy(device, to, from, bytes)?,
        }
    }
    Ok(())
}

/// Bytes of a tensor.
fn byte_len(shape: Shape, dtype: DType) -> Result<usize> {
    let bytes = shape
        .extent()
        .and_then(|extent| extent.checked_mul(dtype.size()));
    bytes
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .map(|_| shape.count() * dtype.size())
        .ok_or(Error::TooLarge(shape))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dtype, shape, device) = (self.dtype, self.shape, self.device());
        write!(f, "Tensor {dtype} {shape} on {device}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn writing_to_a_clone_leaves_the_original_alone() {
        let original =
            Tensor::from_slice([2, 2], &[1.0_f32, 2.0, 3.0, 4.0], Device::cpu()).unwrap();
        let mut copy = original.clone();
        copy.make_mut::<f32>().unwrap()[0] = 9.0;
        assert_eq!(original.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(copy.to_vec::<f32>().unwrap(), [9.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn wrong_type_shape_and_size_are_errors() {
        let ids = Tensor::from_slice([3], &[1_u32, 2, 3], Device::cpu()).unwrap();
        assert!(matches!(ids.as_slice::<f32>(), Err(Error::DType { .. })));
        assert!(matches!(ids.reshape([2, 2]), Err(Error::Shape { .. })));
        let huge = Tensor::empty([usize::MAX, 2], DType::F32, Device::cpu());
        assert!(matches!(huge, Err(Error::TooLarge { .. })));
        let few = Tensor::from_slice([3], &[1.0_f32], Device::cpu());
        assert_eq!(
            few.unwrap_err().to_string(),
            "Tensor::from_slice: 1 values, expected 3"
        );
    }

    #[test]
    fn places_of_the_first_axis_are_taken_and_joined_again() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let whole = Tensor::from_slice([4, 3, 2], &values, Device::cpu()).unwrap();
        let places = [0..1, 1..1, 1..4].map(|places| whole.narrow(places).unwrap());
        assert_eq!(places[2].shape()[..], [3, 3, 2]);
        assert_eq!(places[2].to_vec::<f32>().unwrap(), values[6..]);
        let joined = Tensor::concat(&places.each_ref()).unwrap();
        assert_eq!(joined.shape(), whole.shape());
        assert_eq!(joined.to_vec::<f32>().unwrap(), values);
        assert!(matches!(whole.narrow(3..5), Err(Error::Range { .. })));
        let other = Tensor::zeros([1, 2, 2], DType::F32, Device::cpu()).unwrap();
        let refused = Tensor::concat(&[&whole, &other]);
        assert!(matches!(refused, Err(Error::Shape { .. })));
        let ids = Tensor::zeros([1, 3, 2], DType::U32, Device::cpu()).unwrap();
        let refused = Tensor::concat(&[&whole, &ids]);
        assert!(matches!(refused, Err(Error::DType { .. })));
        assert!(Tensor::concat::<Tensor>(&[]).is_err());
    }

    #[test]
    fn an_empty_tensor_works() {
        let none = Tensor::zeros([0, 5], DType::F32, Device::cpu()).unwrap();
        assert!(none.is_empty() && none.mat().unwrap().rows() == 0);
    }

    #[test]
    fn a_borrowed_tensor_is_written_in_place_or_copied_where_it_is_shared() {
        // Atomics may change behind a shared reference.
        let owner = Arc::new([1.0_f32, 2.0, 3.0].map(|value| AtomicU32::new(value.to_bits())));
        let address = DevicePtr(owner.as_ptr() as u64);
        let borrow = |address, dtype| {
            // SAFETY: three values, which the owner keeps.
            unsafe { Tensor::borrowed(address, [3], dtype, Device::Cpu, owner.clone()) }
        };
        let mut x = borrow(address, DType::F32).unwrap();
        assert_eq!(x.view().ptr(), address);
        x.make_mut::<f32>().unwrap()[0] = 9.0;
        assert_eq!(owner[0].load(Ordering::Relaxed), 9.0_f32.to_bits());
        let reshaped = x.reshape([3, 1]).unwrap();
        x.make_mut::<f32>().unwrap()[1] = 8.0;
        assert_ne!(x.view().ptr(), address);
        assert_eq!(reshaped.to_vec::<f32>().unwrap(), [9.0, 2.0, 3.0]);
        drop(x);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(reshaped);
        assert_eq!(Arc::strong_count(&owner), 1);
        let odd = borrow(DevicePtr(address.0 + 2), DType::F32);
        assert!(matches!(odd, Err(Error::Multiple { expected: 4, .. })));
        assert_eq!(Arc::strong_count(&owner), 1);
    }

    #[test]
    fn borrowed_memory_of_a_card_is_not_the_pools() {
        let [card, ..] = crate::driver::Properties::generations();
        let device = crate::driver::pretend(&card);
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(());
        let address = DevicePtr(1 << 20);
        let sizes = ([4, 4], DType::BF16);
        // SAFETY: nothing is run on a card that is not there.
        let x = unsafe { Tensor::borrowed(address, sizes.0, sizes.1, device, owner.clone()) };
        let mut x = x.unwrap();
        assert_eq!(x.view_mut().unwrap().ptr(), address);
        let shared = x.clone();
        assert_ne!(x.view_mut().unwrap().ptr(), address);
        assert_eq!(shared.view().ptr(), address);
        drop(shared);
        assert_eq!(Arc::strong_count(&owner), 1);
        for _ in 0..2 {
            assert_ne!(
                Tensor::empty(sizes.0, sizes.1, device)
                    .unwrap()
                    .view()
                    .ptr(),
                address
            );
        }
    }
}
