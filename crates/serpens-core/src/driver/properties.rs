//! What the driver says of the cards of this machine.

use cudarc::driver::{result, sys};

use super::libraries::find;
use crate::error::refused;
use crate::{DType, LibraryKind, Result};

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Properties {
    /// The card's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The multiprocessors' highest clock, in Hz.
    pub clock: f64,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: usize,
    /// Bytes of level-2 cache.
    pub cache: usize,
    /// The newest CUDA that the driver supports, as 1000 major + 10 minor.
    pub driver: u32,
}

impl Properties {
    /// An A100, an H200 and a B200: one card of each generation that kernels are written for, to
    /// [`rehearse`](crate::cuda::rehearse) on.
    pub fn generations() -> [Self; 3] {
        let card = |name: &str, capability, multiprocessors, mhz, sizes: [usize; 3]| Self {
            name: name.to_owned(),
            capability,
            multiprocessors,
            clock: 1e6 * mhz,
            memory: sizes[0] << 30,
            shared_memory: sizes[1] << 10,
            cache: sizes[2] << 20,
            driver: 13_000,
        };
        [
            card("NVIDIA A100", (8, 0), 108, 1410.0, [80, 163, 40]),
            card("NVIDIA H200", (9, 0), 132, 1980.0, [139, 227, 60]),
            card("NVIDIA B200", (10, 0), 148, 1965.0, [179, 227, 126]),
        ]
    }

    /// What the matrix units do in a second at the highest clock, for dense products of bf16 or (as TF32) f32 operands;
    /// `None` for a card that is not known.
    pub fn peak_flops(&self, dtype: DType) -> Option<f64> {
        // Operations of a multiprocessor per clock with bf16 operands, from NVIDIA's architecture papers.
        let per_clock = match self.capability {
            (8, 0) => 2048.0,
            (8, 6 | 9) => 512.0,
            (9, 0) => 4096.0,
            (10, _) => 8192.0,
            (12, _) => 1024.0,
            _ => return None,
        };
        let share = if dtype == DType::BF16 { 1.0 } else { 0.5 };
        Some(per_clock * share * f64::from(self.multiprocessors) * self.clock)
    }
}

/// Number of devices that the driver shows; an error where there is no driver.
pub(crate) fn count() -> Result<usize> {
    find(LibraryKind::Driver)?;
    result::init().map_err(refused("start the driver"))?;
    let count = result::device::get_count().map_err(refused("count the devices"))?;
    Ok(count.max(0) as usize)
}

/// What the driver says of every card of this machine; needs the driver only.
///
/// # Errors
/// [`crate::Error::Library`] where there is no driver, [`crate::Error::Cuda`] where it does not work.
pub fn cards() -> Result<Vec<Properties>> {
    let card = |ordinal| {
        let handle = result::device::get(ordinal as i32);
        query(handle.map_err(refused("find the device"))?)
    };
    (0..count()?).map(card).collect()
}

pub(super) fn query(handle: sys::CUdevice) -> Result<Properties> {
    use sys::CUdevice_attribute_enum as Attribute;
    let attribute = |which| -> Result<u32> {
        // SAFETY: the handle is one of the driver's.
        let value = unsafe { result::device::get_attribute(handle, which) };
        Ok(value
            .map_err(refused("ask for the device's properties"))?
            .max(0) as u32)
    };
    let mut driver = 0;
    // SAFETY: the driver writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut driver) }
        .result()
        .map_err(refused("ask for the driver's version"))?;
    Ok(Properties {
        name: result::device::get_name(handle).map_err(refused("ask for the device's name"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock: 1e3 * f64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?),
        // SAFETY: the handle is one of the driver's.
        memory: unsafe { result::device::total_mem(handle) }
            .map_err(refused("ask for the device's memory"))?,
        shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
            as usize,
        cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        driver: driver.max(0) as u32,
    })
}
