//! What the process keeps of each device: its context, its stream, its properties, its compiled kernels.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use cudarc::driver::{result, sys};

use super::driver_error;
use super::gemm::Products;
use super::kernel::{Function, FunctionKey};
use super::libraries::{LibraryKind, find};
use crate::{Device, Error, Result};

/// More devices than any machine has.
const MAX_DEVICES: usize = 16;

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The card's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of level-2 cache.
    pub cache: usize,
    /// The newest CUDA that the driver supports, as 1000 major + 10 minor.
    pub driver: u32,
}

pub(crate) struct State {
    pub(super) device: Device,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) properties: Properties,
    pub(super) functions: Mutex<HashMap<FunctionKey, Function>>,
    pub(super) modules: Mutex<HashMap<u128, super::kernel::Module>>,
    pub(super) products: OnceLock<Result<Products>>,
}

// SAFETY: the driver's handles may be used from any thread; the tables are behind locks.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

thread_local! {
    /// The device whose context is current on this thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The state of device `ordinal`, its context current on this thread.
pub(crate) fn state(ordinal: usize) -> Result<&'static State> {
    static STATES: [OnceLock<Result<State>>; MAX_DEVICES] =
        [const { OnceLock::new() }; MAX_DEVICES];
    let missing = || Error::NoDevice {
        device: Device::Cuda(ordinal),
        reason: "there is no such device".into(),
    };
    let place = STATES.get(ordinal).ok_or_else(missing)?;
    let state = place
        .get_or_init(|| State::new(ordinal))
        .as_ref()
        .map_err(Clone::clone)?;
    if CURRENT.get() != Some(ordinal) {
        // SAFETY: the context was retained when the state was made and is never released.
        unsafe { result::ctx::set_current(state.context) }
            .map_err(driver_error("use the device"))?;
        CURRENT.set(Some(ordinal));
    }
    Ok(state)
}

/// The state behind a device.
pub(super) fn of(device: Device) -> Result<&'static State> {
    match device {
        Device::Cuda(ordinal) => state(ordinal),
        Device::Cpu => Err(Error::NoDevice {
            device,
            reason: "this operation needs a CUDA device".into(),
        }),
    }
}

/// Number of devices that the driver shows; an error where there is no driver.
pub(crate) fn count() -> Result<usize> {
    find(LibraryKind::Driver)?;
    result::init().map_err(driver_error("start the driver"))?;
    let count = result::device::get_count().map_err(driver_error("count the devices"))?;
    Ok((count.max(0) as usize).min(MAX_DEVICES))
}

impl State {
    fn new(ordinal: usize) -> Result<Self> {
        let device = Device::Cuda(ordinal);
        let count = count()?;
        if ordinal >= count {
            return Err(Error::NoDevice {
                device,
                reason: format!("the driver shows {count} devices"),
            });
        }
        find(LibraryKind::Nvrtc)?;
        let handle =
            result::device::get(ordinal as i32).map_err(driver_error("find the device"))?;
        // SAFETY: the handle is one of the driver's; the context is kept for the life of the process.
        let context = unsafe { result::primary_ctx::retain(handle) }
            .map_err(driver_error("open the device"))?;
        // SAFETY: just retained.
        unsafe { result::ctx::set_current(context) }.map_err(driver_error("use the device"))?;
        CURRENT.set(Some(ordinal));
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver_error("make a stream"))?;
        Ok(Self {
            device,
            context,
            stream,
            properties: query(handle)?,
            functions: Mutex::default(),
            modules: Mutex::default(),
            products: OnceLock::new(),
        })
    }
}

fn query(handle: sys::CUdevice) -> Result<Properties> {
    use sys::CUdevice_attribute_enum as Attribute;
    let attribute = |which| -> Result<u32> {
        // SAFETY: the handle is one of the driver's.
        let value = unsafe { result::device::get_attribute(handle, which) };
        Ok(value
            .map_err(driver_error("ask for the device's properties"))?
            .max(0) as u32)
    };
    let mut driver = 0;
    // SAFETY: the driver writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut driver) }
        .result()
        .map_err(driver_error("ask for the driver's version"))?;
    Ok(Properties {
        name: result::device::get_name(handle)
            .map_err(driver_error("ask for the device's name"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: the handle is one of the driver's.
        memory: unsafe { result::device::total_mem(handle) }
            .map_err(driver_error("ask for the device's memory"))?,
        cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        driver: driver.max(0) as u32,
    })
}

/// What the driver says of the device.
pub fn properties(device: Device) -> Result<Properties> {
    Ok(of(device)?.properties.clone())
}

/// The device's streaming multiprocessors.
///
/// # Errors
/// A device that cannot be used, or the processor.
pub fn multiprocessors(device: Device) -> Result<u32> {
    Ok(of(device)?.properties.multiprocessors)
}

/// Waits for everything queued on the device.
pub fn synchronize(device: Device) -> Result<()> {
    let state = of(device)?;
    // SAFETY: the stream lives as long as the process.
    unsafe { result::stream::synchronize(state.stream) }
        .map_err(driver_error("wait for the device"))
}
