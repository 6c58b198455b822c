//! Pinned host memory, through which values go to a device and come from it without waiting for it.

use std::ptr::NonNull;

use cudarc::driver::result;

use crate::driver::{self, Event};
use crate::error::{expect_count, expect_device, expect_dtype, expect_range};
use crate::{Device, Element, Error, Result, Tensor};

// SAFETY: the memory is owned, and the device's handles may be used from any thread, by one at a time.
unsafe impl Send for Staging {}

/// Pinned host memory through which values go to a device without waiting for it, as long as one upload has run before
/// the next is written; or come from it.
pub struct Staging {
    device: Device,
    memory: NonNull<u8>,
    bytes: usize,
    /// Of the last download.
    downloaded: usize,
    copied: Event,
}

impl Staging {
    /// Room for `bytes` bytes.
    pub fn new(device: Device, bytes: usize) -> Result<Self> {
        let mut memory = std::ptr::dangling_mut();
        driver::of(device)?.queue("pin host memory", |_| {
            // SAFETY: the size is not zero; the memory is freed in `drop`.
            memory = unsafe { result::malloc_host(bytes.max(1), 0)? };
            Ok(())
        })?;
        let memory = NonNull::new(memory.cast()).ok_or(Error::OutOfMemory {
            device: Device::Cpu,
            requested: bytes,
            held: 0,
        })?;
        Ok(Self {
            device,
            memory,
            bytes,
            downloaded: 0,
            copied: Event::new(device)?,
        })
    }

    /// Queues a copy of `values` into `to`, which must be of this device, of this type and of as many values.
    pub fn upload<T: Element>(&mut self, to: &mut Tensor, values: &[T]) -> Result<()> {
        const OP: &str = "Staging::upload";
        let bytes: &[u8] = bytemuck::cast_slice(values);
        expect_dtype(OP, "the tensor", T::DTYPE, to.dtype())?;
        expect_device(OP, "the tensor", self.device, to.device())?;
        expect_count(OP, "values", to.len(), values.len())?;
        expect_range(OP, "the number of bytes", 0..self.bytes + 1, bytes.len())?;
        self.copied.wait()?;
        let state = driver::of(self.device)?;
        let address = to.address_mut()?;
        // SAFETY: the last upload has run, so nobody reads the memory; it has room, and so has the tensor.
        state.queue("copy to the device", |stream| unsafe {
            let staged = self.memory.as_ptr();
            staged.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            let staged = std::slice::from_raw_parts(staged, bytes.len());
            result::memcpy_htod_async(address, staged, stream)
        })?;
        self.copied.record()
    }

    /// Queues a copy of the values of `from`, for [`Staging::values`]: they are as what was queued before leaves them.
    pub fn download(&mut self, from: &Tensor) -> Result<()> {
        const OP: &str = "Staging::download";
        let bytes = from.byte_len();
        expect_device(OP, "the tensor", self.device, from.device())?;
        expect_range(OP, "the number of bytes", 0..self.bytes + 1, bytes)?;
        self.copied.wait()?;
        let (state, address) = (driver::of(self.device)?, from.view().ptr().0);
        // SAFETY: nobody reads the memory, which has room for the tensor's values, before the copy has run.
        state.queue("copy from the device", |stream| unsafe {
            let staged = std::slice::from_raw_parts_mut(self.memory.as_ptr(), bytes);
            result::memcpy_dtoh_async(staged, address, stream)
        })?;
        self.downloaded = bytes;
        self.copied.record()
    }

    /// The first `count` values of the last download, which is waited for.
    ///
    /// # Errors
    /// More than that brought; a device that failed.
    pub fn values<T: Element>(&mut self, count: usize) -> Result<Vec<T>> {
        let most = self.downloaded / size_of::<T>();
        expect_range("Staging::values", "the values", 0..most + 1, count)?;
        self.copied.wait()?;
        // SAFETY: the memory is aligned for any element and holds as many, whose every pattern of bits is a value.
        Ok(unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast::<T>(), count) }.to_vec())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = self.copied.wait();
        if let Ok(state) = driver::of(self.device) {
            let memory = self.memory.as_ptr().cast();
            // SAFETY: allocated in `new`, and the last copy from it has run.
            let _ = state.queue("free host memory", |_| unsafe { result::free_host(memory) });
        }
    }
}
