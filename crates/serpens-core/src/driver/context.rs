//! What the process keeps of each device: its context, its default stream, its properties.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cudarc::driver::{result, sys};

use super::libraries::find;
use super::properties::{Properties, count, query};
use crate::error::refused;
use crate::{Device, Error, LibraryKind, Result, Unusable};

/// The oldest major compute capability with what kernels use: bf16, TF32, asynchronous copies.
const OLDEST_MAJOR: u32 = 8;

/// Something that the process keeps of each device, made when it is first asked for. The lock is held to look it up
/// only.
pub(crate) struct PerDevice<T: 'static>(Mutex<BTreeMap<Device, &'static T>>);

impl<T: Default> PerDevice<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(crate) fn of(&self, device: Device) -> &'static T {
        let mut known = lock(&self.0);
        known
            .entry(device)
            .or_insert_with(|| Box::leak(Box::default()))
    }
}

/// Takes a lock whose holders leave what it guards consistent, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct State {
    pub(crate) device: Device,
    /// None for a card that is pretended.
    pub(super) context: Option<sys::CUcontext>,
    /// The stream of threads that are in no other's scope.
    pub(super) default_stream: usize,
    pub(crate) properties: Properties,
    /// Held for reading while something is queued, and for writing while a graph is recorded: what other threads queue
    /// meanwhile would end up in the graph.
    queue: RwLock<()>,
}

// SAFETY: the driver's handles may be used from any thread; the queue is behind a lock.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

thread_local! {
    /// The device that this thread used last: its context is the current one.
    static CURRENT: Cell<Option<&'static State>> = const { Cell::new(None) };
    /// The devices whose queues this thread is inside of.
    static INSIDE: RefCell<Vec<Device>> = const { RefCell::new(Vec::new()) };
}

/// A thread's hold on the lock of a device's queue.
pub(crate) struct Inside<L> {
    device: Device,
    _lock: L,
}

impl<L> Inside<L> {
    fn new(device: Device, lock: L) -> Self {
        INSIDE.with_borrow_mut(|inside| inside.push(device));
        let _lock = lock;
        Self { device, _lock }
    }
}

impl<L> Drop for Inside<L> {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(|inside| inside.retain(|&device| device != self.device));
    }
}

/// The state of a device for a thread that may queue work on it: no other thread records a graph meanwhile.
pub(crate) struct Entry {
    /// The state without the right to queue.
    pub(crate) state: &'static State,
    _inside: Option<Inside<RwLockReadGuard<'static, ()>>>,
}

impl Deref for Entry {
    type Target = State;

    fn deref(&self) -> &State {
        self.state
    }
}

/// Waits until no other thread queues work, and keeps it so.
///
/// # Errors
/// [`Error::InUse`] where this thread is inside: it would wait for itself.
pub(crate) fn alone(
    op: &'static str,
    device: Device,
) -> Result<Inside<RwLockWriteGuard<'static, ()>>> {
    let state = open(device)?;
    if INSIDE.with_borrow(|inside| inside.contains(&device)) {
        return Err(Error::InUse { op });
    }
    let lock = state.queue.write();
    Ok(Inside::new(
        device,
        lock.unwrap_or_else(PoisonError::into_inner),
    ))
}

/// Enters the queue of a device; its context is current on this thread from then on.
pub(crate) fn of(device: Device) -> Result<Entry> {
    let state = open(device)?;
    // A thread that is inside need not wait for one that wants to be alone: that one waits for it.
    let outside = INSIDE.with_borrow(|inside| !inside.contains(&device));
    let enter = || {
        let lock = state.queue.read();
        Inside::new(device, lock.unwrap_or_else(PoisonError::into_inner))
    };
    let _inside = outside.then(enter);
    Ok(Entry { state, _inside })
}

/// The cards that are in use, and those that are pretended. They stay, as tensors may.
fn cards() -> MutexGuard<'static, BTreeMap<Device, &'static State>> {
    static CARDS: Mutex<BTreeMap<Device, &'static State>> = Mutex::new(BTreeMap::new());
    lock(&CARDS)
}

/// The state of a device, made where there is none yet; what fails is tried anew the next time.
fn open(device: Device) -> Result<&'static State> {
    if let Some(state) = CURRENT.get().filter(|state| state.device == device) {
        return Ok(state);
    }
    CURRENT.set(None); // until the context has changed
    let mut cards = cards();
    let state = match cards.get(&device) {
        Some(state) => *state,
        None => {
            let state: &'static State = Box::leak(Box::new(State::new(device)?));
            cards.insert(device, state);
            state
        }
    };
    if let Some(context) = state.context {
        // SAFETY: the context was retained when the state was made and is never released.
        unsafe { result::ctx::set_current(context) }.map_err(refused("use the device"))?;
    }
    CURRENT.set(Some(state));
    Ok(state)
}

/// The number of the first pretended card: no machine has as many.
const FIRST_PRETENDED: usize = 1 << 16;

/// A card with these properties that needs no driver: its memory is addresses alone, and what is queued does nothing.
pub(crate) fn pretend(properties: &Properties) -> Device {
    let mut cards = cards();
    let mut pretended = cards.values().filter(|state| state.context.is_none());
    if let Some(known) = pretended.find(|state| state.properties == *properties) {
        return known.device;
    }
    let device = Device::Cuda(FIRST_PRETENDED + cards.len());
    let state = State::pretended(device, properties.clone());
    cards.insert(device, Box::leak(Box::new(state)));
    device
}

impl State {
    fn new(device: Device) -> Result<Self> {
        let unusable = |reason| Err(Error::NoDevice { device, reason });
        let ordinal = match device {
            Device::Cpu => return unusable(Unusable::NotCuda),
            Device::Cuda(ordinal) if ordinal >= FIRST_PRETENDED => {
                return unusable(Unusable::Unknown);
            }
            Device::Cuda(ordinal) => ordinal,
        };
        let devices = count()?;
        if ordinal >= devices {
            return unusable(Unusable::Absent(devices));
        }
        // Without any of these no model runs: better said now than in the middle of the first step.
        find(LibraryKind::Nvrtc)?;
        find(LibraryKind::CublasLt)?;
        let handle = result::device::get(ordinal as i32).map_err(refused("find the device"))?;
        let properties = query(handle)?;
        let capability = properties.capability;
        if capability.0 < OLDEST_MAJOR {
            return unusable(Unusable::TooOld {
                name: properties.name,
                capability,
                oldest: OLDEST_MAJOR,
            });
        }
        // SAFETY: the handle is one of the driver's; the context is kept for the life of the process.
        let context =
            unsafe { result::primary_ctx::retain(handle) }.map_err(refused("open the device"))?;
        // SAFETY: just retained.
        unsafe { result::ctx::set_current(context) }.map_err(refused("use the device"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(refused("make a stream"))?;
        Ok(Self {
            context: Some(context),
            default_stream: stream as usize,
            ..Self::pretended(device, properties)
        })
    }

    fn pretended(device: Device, properties: Properties) -> Self {
        Self {
            device,
            context: None,
            default_stream: 0,
            properties,
            queue: RwLock::new(()),
        }
    }

    /// Does `call` with the stream, where there is one.
    pub(crate) fn queue(
        &self,
        what: &'static str,
        call: impl FnOnce(sys::CUstream) -> Result<(), result::DriverError>,
    ) -> Result<()> {
        match self.stream() {
            Some(stream) => call(stream).map_err(refused(what)),
            None => Ok(()),
        }
    }
}

/// What the driver says of the device.
///
/// # Errors
/// A device that cannot be used, or the processor.
pub fn properties(device: Device) -> Result<&'static Properties> {
    Ok(&open(device)?.properties)
}

/// Waits for everything queued on the device's current stream.
pub(crate) fn synchronize(device: Device) -> Result<()> {
    of(device)?.queue("wait for the device", |stream| {
        // SAFETY: the stream is live, as this thread is in its scope or it is the default one.
        unsafe { result::stream::synchronize(stream) }
    })
}
