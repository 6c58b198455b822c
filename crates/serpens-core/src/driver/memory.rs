//! Memory of a device: copies and fills queued on its current stream.

use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{result, sys};

use super::context::of;
use crate::error::refused;
use crate::{Device, Result};

/// An address in a device's memory, as kernels take it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address of an operand that is absent.
    pub const NULL: DevicePtr = DevicePtr(0);
}

/// Takes memory of a device from the driver; `None` where there is none left.
pub(crate) fn allocate(device: Device, bytes: usize) -> Result<Option<u64>> {
    if of(device)?.stream().is_none() {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
        let step = bytes.next_multiple_of(512) as u64;
        return Ok(Some(NEXT.fetch_add(step, Ordering::Relaxed)));
    }
    // SAFETY: the size is not zero, and the device's context is current.
    match unsafe { result::malloc_sync(bytes) } {
        Ok(address) => Ok(Some(address)),
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
        Err(error) => Err(refused("allocate")(error)),
    }
}

/// Gives memory back to the driver, once everything queued has run.
///
/// # Safety
/// The address came from [`allocate`] and nothing uses it any more.
pub(crate) unsafe fn release(device: Device, address: u64) {
    if let Ok(entry) = of(device) {
        // SAFETY: as the caller promises; freeing waits for the device.
        let _ = entry.queue("free", |_| unsafe { result::free_sync(address) });
    }
}

/// Copies from host memory and waits: a driver that reads the host's memory in place may still be at it when the copy
/// is queued.
///
/// # Safety
/// `to` has room for the values on the device.
pub(crate) unsafe fn upload(device: Device, to: u64, from: &[u8]) -> Result<()> {
    // SAFETY: as the caller promises; the wait ends before the borrow of `from`.
    of(device)?.queue("copy to the device", |stream| unsafe {
        result::memcpy_htod_async(to, from, stream)?;
        result::stream::synchronize(stream)
    })
}

/// Copies to host memory and waits; zeros where the card is pretended.
///
/// # Safety
/// `from` holds as many bytes on the device.
pub(crate) unsafe fn download(device: Device, to: &mut [u8], from: u64) -> Result<()> {
    let entry = of(device)?;
    if entry.stream().is_none() {
        to.fill(0);
    }
    // SAFETY: as the caller promises; the wait ends before the borrow of `to`.
    entry.queue("copy from the device", |stream| unsafe {
        result::memcpy_dtoh_async(to, from, stream)?;
        result::stream::synchronize(stream)
    })
}

/// Copies inside the device.
///
/// # Safety
/// Both addresses are valid for as many bytes, and they do not overlap.
pub(crate) unsafe fn copy(device: Device, to: u64, from: u64, bytes: usize) -> Result<()> {
    // SAFETY: as the caller promises.
    of(device)?.queue("copy on the device", |stream| unsafe {
        result::memcpy_dtod_async(to, from, bytes, stream)
    })
}

/// Fills `rows` rows of `width` bytes, `pitch` bytes apart, with zeros.
///
/// # Safety
/// The rows are valid on the device.
pub(crate) unsafe fn zero_rows(
    device: Device,
    to: u64,
    rows: usize,
    width: usize,
    pitch: usize,
) -> Result<()> {
    if rows == 0 || width == 0 {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    of(device)?.queue("fill with zeros", |stream| unsafe {
        if width == pitch || rows == 1 {
            sys::cuMemsetD8Async(to, 0, rows * width, stream).result()
        } else {
            sys::cuMemsetD2D8Async(to, pitch, 0, width, rows, stream).result()
        }
    })
}

/// Fills with copies of one value of 2 or 4 bytes.
///
/// # Safety
/// `count` values are valid at `to` on the device.
pub(crate) unsafe fn fill(device: Device, to: u64, value: &[u8], count: usize) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    of(device)?.queue("fill", |stream| unsafe {
        match *value {
            [a, b] => sys::cuMemsetD16Async(to, u16::from_ne_bytes([a, b]), count, stream).result(),
            [a, b, c, d] => {
                sys::cuMemsetD32Async(to, u32::from_ne_bytes([a, b, c, d]), count, stream).result()
            }
            _ => unreachable!("elements have 2 or 4 bytes"),
        }
    })
}
