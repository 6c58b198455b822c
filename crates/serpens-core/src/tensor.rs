//! Contiguous, row-major, reference-counted tensors.

use std::fmt;
use std::sync::Arc;

use crate::pool::Buffer;
use crate::{DType, Device, Element, Error, Mat, MatMut, Result, Shape};

/// An n-dimensional array. Cloning shares the values; [`Tensor::make_mut`] copies them first where they are shared, so a
/// tensor never changes under another holder.
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
        let Device::Cpu = device;
        let bytes = shape
            .checked_count()
            .and_then(|count| count.checked_mul(dtype.size()))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(Error::TooLarge { shape })?;
        Ok(Self {
            shape,
            dtype,
            buffer: Arc::new(Buffer::new(bytes)?),
        })
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, dtype, device)?;
        tensor.bytes_mut()?.fill(0);
        Ok(tensor)
    }

    /// A tensor with every value equal to `value`.
    pub fn full<T: Element>(shape: impl Into<Shape>, value: T, device: Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, T::DTYPE, device)?;
        tensor.make_mut::<T>()?.fill(value);
        Ok(tensor)
    }

    /// A tensor with the values of `values`, row by row.
    ///
    /// # Errors
    /// [`Error::Argument`] where their number is not that of the shape.
    pub fn from_slice<T: Element>(
        shape: impl Into<Shape>,
        values: &[T],
        device: Device,
    ) -> Result<Self> {
        let mut tensor = Self::empty(shape, T::DTYPE, device)?;
        if tensor.len() != values.len() {
            return Err(Error::argument(
                "Tensor::from_slice",
                format!("{} values for shape {}", values.len(), tensor.shape),
            ));
        }
        tensor.make_mut::<T>()?.copy_from_slice(values);
        Ok(tensor)
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
        Device::Cpu
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
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.checked_count() != Some(self.len()) {
            return Err(Error::shape(
                "reshape",
                "the tensor",
                format!("as many values as {shape}"),
                self.shape,
            ));
        }
        Ok(Self {
            shape,
            ..self.clone()
        })
    }

    /// The values, row by row.
    ///
    /// # Errors
    /// [`Error::DType`] where they are not of type `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check::<T>("as_slice")?;
        let address = self.buffer.address().cast::<T>();
        // SAFETY: the buffer holds at least `len` values, initialised and aligned to 64 bytes, and is written through
        // `make_mut` only, which needs it unshared and `self` borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts(address, self.len()) })
    }

    /// The values for writing; they are copied first where another tensor shares them.
    ///
    /// # Errors
    /// [`Error::DType`] where they are not of type `T`; [`Error::OutOfMemory`] where the copy does not fit.
    pub fn make_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check::<T>("make_mut")?;
        let len = self.len();
        let address = self.unshare()?.cast::<T>();
        // SAFETY: as in `as_slice`; the buffer is unshared now and `self` is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, len) })
    }

    /// The sizes of the axes, borrowed.
    pub fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// The values' bytes, in the machine's order.
    pub fn as_bytes(&self) -> &[u8] {
        let bytes = self.len() * self.dtype.size();
        // SAFETY: the buffer holds at least that many initialised bytes, written through `make_mut` only.
        unsafe { std::slice::from_raw_parts(self.buffer.address(), bytes) }
    }

    /// A copy of the values.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.as_slice().map(<[T]>::to_vec)
    }

    /// An f32 tensor as a matrix of [`Shape::rows`] by [`Shape::cols`].
    pub fn mat(&self) -> Result<Mat<'_>> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        Ok(Mat::new(self.as_slice()?, rows, cols, cols, 0))
    }

    /// An f32 tensor as a writable matrix of [`Shape::rows`] by [`Shape::cols`].
    pub fn mat_mut(&mut self) -> Result<MatMut<'_>> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        Ok(MatMut::new(self.make_mut()?, rows, cols, cols, 0))
    }

    /// The address of the values, unshared.
    pub(crate) fn unshare(&mut self) -> Result<*mut u8> {
        if Arc::get_mut(&mut self.buffer).is_none() {
            let bytes = self.len() * self.dtype.size();
            let copy = Buffer::new(bytes)?;
            // SAFETY: both buffers hold at least `bytes` initialised bytes and are different allocations.
            unsafe {
                self.buffer
                    .address()
                    .copy_to_nonoverlapping(copy.address(), bytes)
            };
            self.buffer = Arc::new(copy);
        }
        Ok(self.buffer.address())
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        let bytes = self.len() * self.dtype.size();
        let address = self.unshare()?;
        // SAFETY: the buffer holds at least `bytes` initialised bytes and is unshared.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, bytes) })
    }

    fn check<T: Element>(&self, op: &'static str) -> Result<()> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::DType {
            op,
            what: "the tensor",
            expected: T::DTYPE,
            got: self.dtype,
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {} {}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
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
            "Tensor::from_slice: 1 values for shape (3)"
        );
    }

    #[test]
    fn an_empty_tensor_works() {
        let none = Tensor::zeros([0, 5], DType::F32, Device::cpu()).unwrap();
        assert!(none.is_empty() && none.mat().unwrap().rows() == 0);
    }
}
