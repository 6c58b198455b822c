//! What the process keeps of each device: its context, its default stream, its properties.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use cudarc::driver::{result, sys};

use super::libraries::find;
use super::properties::{MAX_DEVICES, Properties, count, query};
use crate::error::refused;
use crate::{Device, Error, LibraryKind, Result, Unusable};

/// The oldest major compute capability with what kernels use: bf16, TF32, asynchronous copies.
const OLDEST_MAJOR: u32 = 8;

/// Something that the process keeps of each device, made when it is first asked for.
pub(crate) struct PerDevice<T: 'static> {
    cards: [OnceLock<T>; MAX_DEVICES],
    /// Of pretended cards.
    pretended: Mutex<BTreeMap<usize, &'static T>>,
}

impl<T: Default> PerDevice<T> {
    pub(crate) const fn new() -> Self {
        Self {
            cards: [const { OnceLock::new() }; MAX_DEVICES],
            pretended: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn of(&'static self, ordinal: usize) -> &'static T {
        match self.cards.get(ordinal) {
            Some(card) => card.get_or_init(T::default),
            None => lock(&self.pretended)
                .entry(ordinal)
                .or_insert_with(|| Box::leak(Box::default())),
        }
    }
}

/// Takes a lock whose holders leave what it guards consistent, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct State {
    pub(crate) device: Device,
    pub(crate) ordinal: usize,
    /// None for a card that is pretended.
    pub(super) context: Option<sys::CUcontext>,
    /// The stream of threads that are in no other's scope.
    pub(super) default_stream: usize,
    pub(crate) properties: Properties,
    /// Held for reading while something is queued, and for writing while a graph is recorded: what other threads queue meanwhile
    /// would end up in the graph.
    queue: RwLock<()>,
}

// SAFETY: the driver's handles may be used from any thread; the queue is behind a lock.
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
    _guard: Option<RwLockReadGuard<'static, ()>>,
}

impl Entry {
    /// The state without the right to queue.
    pub(crate) fn state(&self) -> &'static State {
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
        count_guards(self.state.ordinal, -1);
    }
}

/// The right of one thread alone to queue work.
pub(crate) struct Alone {
    ordinal: usize,
    _guard: RwLockWriteGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        count_guards(self.ordinal, -1);
    }
}

/// Waits until no other thread queues work, and keeps it so.
pub(crate) fn alone(device: Device) -> Result<Alone> {
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
            let _turn = lock(&OPENING);
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
        if let Some(context) = state.context {
            // SAFETY: the context was retained when the state was made and is never released.
            unsafe { result::ctx::set_current(context) }.map_err(refused("use the device"))?;
        }
        CURRENT.set(Some(ordinal));
    }
    Ok(state)
}

fn no_such_device(ordinal: usize) -> Error {
    Error::NoDevice {
        device: Device::Cuda(ordinal),
        reason: Unusable::Unknown,
    }
}

/// The ordinal of the first pretended card: no machine has as many.
const FIRST_PRETENDED: usize = 1 << 16;

/// The pretended cards, by their ordinals. They stay, as tensors may.
fn pretended() -> MutexGuard<'static, Vec<&'static State>> {
    static PRETENDED: Mutex<Vec<&'static State>> = Mutex::new(Vec::new());
    lock(&PRETENDED)
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
    let state = State::pretended(FIRST_PRETENDED + pretended.len(), properties.clone());
    let state: &'static State = Box::leak(Box::new(state));
    pretended.push(state);
    state.device
}

/// Enters the queue of a device.
pub(crate) fn of(device: Device) -> Result<Entry> {
    state(ordinal(device)?)
}

fn ordinal(device: Device) -> Result<usize> {
    match device {
        Device::Cuda(ordinal) => Ok(ordinal),
        Device::Cpu => Err(Error::NoDevice {
            device,
            reason: Unusable::NotCuda,
        }),
    }
}

impl State {
    fn new(ordinal: usize) -> Result<Self> {
        let device = Device::Cuda(ordinal);
        let count = count()?;
        if ordinal >= count {
            return Err(Error::NoDevice {
                device,
                reason: Unusable::Absent { devices: count },
            });
        }
        // Without any of these no model runs: better said now than in the middle of the first step.
        find(LibraryKind::Nvrtc)?;
        find(LibraryKind::CublasLt)?;
        let handle = result::device::get(ordinal as i32).map_err(refused("find the device"))?;
        let properties = query(handle)?;
        let capability = properties.capability;
        if capability.0 < OLDEST_MAJOR {
            return Err(Error::NoDevice {
                device,
                reason: Unusable::TooOld {
                    name: properties.name,
                    capability,
                    oldest: OLDEST_MAJOR,
                },
            });
        }
        // SAFETY: the handle is one of the driver's; the context is kept for the life of the process.
        let context =
            unsafe { result::primary_ctx::retain(handle) }.map_err(refused("open the device"))?;
        // SAFETY: just retained.
        unsafe { result::ctx::set_current(context) }.map_err(refused("use the device"))?;
        CURRENT.set(Some(ordinal));
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(refused("make a stream"))?;
        Ok(Self {
            context: Some(context),
            default_stream: stream as usize,
            ..Self::pretended(ordinal, properties)
        })
    }

    fn pretended(ordinal: usize, properties: Properties) -> Self {
        Self {
            device: Device::Cuda(ordinal),
            ordinal,
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

/// Waits for everything queued on the device's current stream.
pub fn synchronize(device: Device) -> Result<()> {
    of(device)?.queue("wait for the device", |stream| {
        // SAFETY: the stream is live, as this thread is in its scope or it is the default one.
        unsafe { result::stream::synchronize(stream) }
    })
}
