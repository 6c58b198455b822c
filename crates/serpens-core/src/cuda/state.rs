//! What the process keeps of each device: its context, its stream, its properties, its compiled kernels.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use cudarc::driver::{result, sys};

use super::driver_error;
use super::gemm::Products;
use super::kernel::{Function, FunctionKey};
use super::libraries::{LibraryKind, find};
use crate::{DType, Device, Error, Result};

/// More devices than any machine has.
const MAX_DEVICES: usize = 16;

/// The oldest major compute capability with what kernels use: bf16, TF32, asynchronous copies.
const OLDEST_MAJOR: u32 = 8;

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
    /// An A100, an H200 and a B200: one card of each generation that kernels are written for, to [`rehearse`](super::rehearse) on.
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

    /// What the matrix units do in a second at the highest clock, for dense products of bf16 or (as TF32) f32 operands; `None` for a
    /// card that is not known.
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

/// What work on a card goes through.
#[derive(Clone, Copy)]
struct Handles {
    context: sys::CUcontext,
    stream: sys::CUstream,
}

pub(crate) struct State {
    pub(super) device: Device,
    /// None for a card that is pretended.
    handles: Option<Handles>,
    pub(super) properties: Properties,
    pub(super) functions: Mutex<HashMap<FunctionKey, Function>>,
    pub(super) modules: Mutex<HashMap<u128, super::kernel::Module>>,
    /// What each function, by its address, may use of dynamic shared memory.
    pub(super) shared_limits: Mutex<HashMap<usize, u32>>,
    pub(super) products: Mutex<Option<Products>>,
    /// Held for reading while something is queued, and for writing while a graph is recorded: what other threads queue meanwhile
    /// would end up in the graph.
    queue: RwLock<()>,
}

// SAFETY: the driver's handles may be used from any thread; the tables are behind locks.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

thread_local! {
    /// The device whose context is current on this thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    /// How many guards of each device's queue this thread has.
    static ENTERED: [Cell<u32>; MAX_DEVICES] = const { [const { Cell::new(0) }; MAX_DEVICES] };
}

/// Whether this thread is inside the queue of device `ordinal`; a pretended card has none.
fn is_inside(ordinal: usize) -> bool {
    ENTERED.with(|entered| entered.get(ordinal).is_none_or(|count| count.get() > 0))
}

/// Notes that this thread has one guard more, or less, of the queue of device `ordinal`.
fn count_guards(ordinal: usize, change: i32) {
    ENTERED.with(|entered| {
        if let Some(count) = entered.get(ordinal) {
            count.set(count.get().wrapping_add_signed(change));
        }
    });
}

/// The state of a device for a thread that may queue work on it: no other thread records a graph meanwhile.
pub(crate) struct Entry {
    state: &'static State,
    ordinal: usize,
    _guard: Option<RwLockReadGuard<'static, ()>>,
}

impl Entry {
    /// The state without the right to queue.
    pub(super) fn state(&self) -> &'static State {
        self.state
    }
}

impl Deref for Entry {
    type Target = State;

    fn deref(&self) -> &State {
        self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        count_guards(self.ordinal, -1);
    }
}

/// The right of one thread alone to queue work.
pub(super) struct Alone {
    ordinal: usize,
    _guard: RwLockWriteGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        count_guards(self.ordinal, -1);
    }
}

/// Waits until no other thread queues work, and keeps it so.
pub(super) fn alone(device: Device) -> Result<Alone> {
    let ordinal = ordinal(device)?;
    let state = open(ordinal)?;
    let guard = state.queue.write().unwrap_or_else(PoisonError::into_inner);
    count_guards(ordinal, 1);
    Ok(Alone {
        ordinal,
        _guard: guard,
    })
}

/// Enters the queue of device `ordinal`; its context is current on this thread from then on.
pub(crate) fn state(ordinal: usize) -> Result<Entry> {
    let state = open(ordinal)?;
    // A thread that is inside need not wait for one that wants to be alone: that one waits for it.
    let guard =
        (!is_inside(ordinal)).then(|| state.queue.read().unwrap_or_else(PoisonError::into_inner));
    count_guards(ordinal, 1);
    Ok(Entry {
        state,
        ordinal,
        _guard: guard,
    })
}

/// The state of device `ordinal`, made where there is none yet; what fails is tried anew the next time.
fn open(ordinal: usize) -> Result<&'static State> {
    if ordinal >= FIRST_PRETENDED {
        let pretended = pretended().get(ordinal - FIRST_PRETENDED).copied();
        return pretended.ok_or_else(|| no_such_device(ordinal));
    }
    static STATES: [OnceLock<State>; MAX_DEVICES] = [const { OnceLock::new() }; MAX_DEVICES];
    static OPENING: Mutex<()> = Mutex::new(());
    let place = STATES.get(ordinal).ok_or_else(|| no_such_device(ordinal))?;
    let state = match place.get() {
        Some(state) => state,
        None => {
            let _turn = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
            match place.get() {
                Some(state) => state,
                None => {
                    let state = State::new(ordinal)?;
                    place.get_or_init(|| state)
                }
            }
        }
    };
    if CURRENT.get() != Some(ordinal) {
        if let Some(handles) = state.handles {
            // SAFETY: the context was retained when the state was made and is never released.
            unsafe { result::ctx::set_current(handles.context) }
                .map_err(driver_error("use the device"))?;
        }
        CURRENT.set(Some(ordinal));
    }
    Ok(state)
}

fn no_such_device(ordinal: usize) -> Error {
    Error::NoDevice {
        device: Device::Cuda(ordinal),
        reason: "there is no such device".into(),
    }
}

/// The ordinal of the first pretended card: no machine has as many.
const FIRST_PRETENDED: usize = 1 << 16;

/// The pretended cards, by their ordinals. They stay, as tensors may.
fn pretended() -> MutexGuard<'static, Vec<&'static State>> {
    static PRETENDED: Mutex<Vec<&'static State>> = Mutex::new(Vec::new());
    PRETENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A card with these properties that needs no driver: its memory is addresses alone, and what is queued does nothing.
pub(crate) fn pretend(properties: &Properties) -> Device {
    let mut pretended = pretended();
    if let Some(known) = pretended
        .iter()
        .find(|state| state.properties == *properties)
    {
        return known.device;
    }
    let device = Device::Cuda(FIRST_PRETENDED + pretended.len());
    let state = State::with(device, None, properties.clone());
    pretended.push(Box::leak(Box::new(state)));
    device
}

/// Enters the queue of a device.
pub(super) fn of(device: Device) -> Result<Entry> {
    state(ordinal(device)?)
}

fn ordinal(device: Device) -> Result<usize> {
    match device {
        Device::Cuda(ordinal) => Ok(ordinal),
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

/// What the driver says of every card of this machine; needs the driver only.
///
/// # Errors
/// [`Error::Library`] where there is no driver, [`Error::Cuda`] where it does not work.
pub fn cards() -> Result<Vec<Properties>> {
    let card = |ordinal| {
        let handle = result::device::get(ordinal as i32);
        query(handle.map_err(driver_error("find the device"))?)
    };
    (0..count()?).map(card).collect()
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
        // Without any of these no model runs: better said now than in the middle of the first step.
        find(LibraryKind::Nvrtc)?;
        find(LibraryKind::CublasLt)?;
        let handle =
            result::device::get(ordinal as i32).map_err(driver_error("find the device"))?;
        let properties = query(handle)?;
        let (major, minor) = properties.capability;
        if major < OLDEST_MAJOR {
            return Err(Error::NoDevice {
                device,
                reason: format!(
                    "{} has compute capability {major}.{minor}; kernels need {OLDEST_MAJOR}.0 (Ampere) or later",
                    properties.name
                ),
            });
        }
        // SAFETY: the handle is one of the driver's; the context is kept for the life of the process.
        let context = unsafe { result::primary_ctx::retain(handle) }
            .map_err(driver_error("open the device"))?;
        // SAFETY: just retained.
        unsafe { result::ctx::set_current(context) }.map_err(driver_error("use the device"))?;
        CURRENT.set(Some(ordinal));
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver_error("make a stream"))?;
        Ok(Self::with(
            device,
            Some(Handles { context, stream }),
            properties,
        ))
    }

    fn with(device: Device, handles: Option<Handles>, properties: Properties) -> Self {
        Self {
            device,
            handles,
            properties,
            functions: Mutex::default(),
            modules: Mutex::default(),
            shared_limits: Mutex::default(),
            products: Mutex::default(),
            queue: RwLock::new(()),
        }
    }

    /// The stream that work is queued on; none where the card is pretended.
    pub(super) fn stream(&self) -> Option<sys::CUstream> {
        self.handles.map(|handles| handles.stream)
    }

    /// Does `call` with the stream, where there is one.
    pub(super) fn queue(
        &self,
        what: &'static str,
        call: impl FnOnce(sys::CUstream) -> Result<(), result::DriverError>,
    ) -> Result<()> {
        match self.stream() {
            Some(stream) => call(stream).map_err(driver_error(what)),
            None => Ok(()),
        }
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
        clock: 1e3 * f64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?),
        // SAFETY: the handle is one of the driver's.
        memory: unsafe { result::device::total_mem(handle) }
            .map_err(driver_error("ask for the device's memory"))?,
        shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
            as usize,
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
    of(device)?.queue("wait for the device", |stream| {
        // SAFETY: the stream lives as long as the process.
        unsafe { result::stream::synchronize(stream) }
    })
}
