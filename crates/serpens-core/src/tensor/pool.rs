//! The pools of buffers, one for each device: a freed buffer waits for the next tensor of its size class on the stream
//! that it was taken on, so that a training loop allocates in its first steps only. Work on a stream runs in the order
//! in which it was queued, so a buffer may be used again while the kernels that read it are still waiting.

use std::alloc::{Layout, alloc, dealloc};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::driver::{self, Entry, PerDevice, lock, memory};
use crate::{Device, Error, Result};

/// Buffers start at a cache line, which is also the widest SIMD vector.
const ALIGNMENT: usize = 64;

/// Buffers of this size and more start where a huge page may: a processor that streams through memory looks fewer pages
/// up, and reads ahead without stopping at the end of each small one.
const HUGE_PAGE: usize = 2 << 20;

/// What a device's pool holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes obtained from the system and not given back.
    pub held: usize,
    /// Bytes in tensors now.
    pub in_use: usize,
    /// The most bytes that were in tensors at one time.
    pub high_water: usize,
    /// How many times the system was asked for memory.
    pub allocations: usize,
}

/// What one block can stand in for another by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    /// The stream that the block was taken on.
    stream: usize,
    bytes: usize,
}

#[derive(Default)]
struct Pool {
    free: HashMap<Kind, Vec<u64>>,
    stats: MemoryStats,
    /// While a graph is recorded, the blocks handed out; they become the graph's.
    recording: Option<HashMap<u64, Kind>>,
    /// Blocks that recorded graphs run with: they do not go back to `free` while the graph lives.
    of_graphs: HashMap<u64, GraphBlock>,
}

/// A block that a graph runs with.
struct GraphBlock {
    kind: Kind,
    /// Whether a tensor holds it as well.
    in_tensor: bool,
}

fn pool(device: Device) -> MutexGuard<'static, Pool> {
    static POOLS: PerDevice<Mutex<Pool>> = PerDevice::new();
    lock(POOLS.of(device))
}

/// Enters a GPU's queue.
fn enter(device: Device) -> Result<Option<Entry>> {
    match device {
        Device::Cpu => Ok(None),
        Device::Cuda(_) => driver::of(device).map(Some),
    }
}

/// Memory of a tensor. On the processor its bytes are always initialised, though to anything.
pub(crate) struct Buffer {
    /// The first byte, an address of the device.
    pub(crate) address: u64,
    pub(crate) device: Device,
    home: Home,
}

/// Where a buffer's memory goes when it is dropped.
enum Home {
    /// To the device's pool.
    Pool(Kind),
    /// To whoever lent it.
    Lent { _owner: Arc<dyn Any + Send + Sync> },
}

impl Buffer {
    /// A buffer of at least `bytes` bytes with any contents.
    pub(crate) fn new(bytes: usize, device: Device) -> Result<Self> {
        let entry = enter(device)?; // before the lock: it may wait for a graph in the making, which needs the lock
        let kind = Kind {
            stream: entry.as_ref().map_or(0, |entry| entry.current()),
            bytes: size_class(bytes),
        };
        let mut pool = pool(device);
        let address = match pool.free.get_mut(&kind).and_then(Vec::pop) {
            Some(address) => address,
            None => pool.grow(kind.bytes, bytes, device)?,
        };
        if let Some(recording) = &mut pool.recording {
            recording.insert(address, kind);
        }
        pool.stats.in_use += kind.bytes;
        pool.stats.high_water = pool.stats.high_water.max(pool.stats.in_use);
        Ok(Self {
            address,
            device,
            home: Home::Pool(kind),
        })
    }

    /// Memory that is somebody else's.
    pub(crate) fn lent(address: u64, device: Device, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            address,
            device,
            home: Home::Lent { _owner: owner },
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Home::Pool(kind) = self.home else { return };
        let mut pool = pool(self.device);
        pool.stats.in_use -= kind.bytes;
        match pool.of_graphs.get_mut(&self.address) {
            Some(block) => block.in_tensor = false,
            None => pool.put_back(kind, self.address),
        }
    }
}

impl Pool {
    fn put_back(&mut self, kind: Kind, address: u64) {
        self.free.entry(kind).or_default().push(address);
    }

    /// A block from the system, after giving unused ones back where there is no room.
    fn grow(&mut self, class: usize, requested: usize, device: Device) -> Result<u64> {
        let mut address = allocate(class, device)?;
        if address.is_none() && self.free.values().any(|blocks| !blocks.is_empty()) {
            self.release_unused(device);
            address = allocate(class, device)?;
        }
        let held = self.stats.held;
        let address = address.ok_or(Error::OutOfMemory {
            device,
            requested,
            held,
        })?;
        self.stats.held += class;
        self.stats.allocations += 1;
        Ok(address)
    }

    /// Gives unused blocks back, but for those that a graph in the making runs with.
    fn release_unused(&mut self, device: Device) {
        let recording = self.recording.as_ref();
        for (&Kind { bytes, .. }, blocks) in &mut self.free {
            blocks.retain(|address| {
                if recording.is_some_and(|blocks| blocks.contains_key(address)) {
                    return true;
                }
                self.stats.held -= bytes;
                // SAFETY: allocated by `allocate` with this size, and owned by nobody else.
                unsafe { deallocate(*address, bytes, device) };
                false
            });
        }
    }
}

/// Rounds up to an eighth of the next power of two, so that at most an eighth is wasted and near sizes share blocks.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.checked_next_power_of_two().unwrap_or(bytes) / 8).max(ALIGNMENT);
    bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes)
}

fn allocate(bytes: usize, device: Device) -> Result<Option<u64>> {
    match device {
        Device::Cuda(_) => memory::allocate(device, bytes),
        Device::Cpu => Ok(layout(bytes).and_then(zeroed)),
    }
}

/// Where the processor's blocks lie.
fn layout(bytes: usize) -> Option<Layout> {
    let alignment = if bytes < HUGE_PAGE {
        ALIGNMENT
    } else {
        HUGE_PAGE
    };
    Layout::from_size_align(bytes, alignment).ok()
}

/// The address of a block of zeros.
fn zeroed(layout: Layout) -> Option<u64> {
    // SAFETY: the layout's size is not zero, as `size_class` returns at least ALIGNMENT.
    let address = unsafe { alloc(layout) };
    if address.is_null() {
        return None;
    }
    // Before a page of it is there. What the system cannot give stays in small ones.
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE_PAGE {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the block is this function's own, and what it holds is not changed.
        let _ = unsafe { madvise(address.cast(), layout.size(), Advice::LinuxHugepage) };
    }
    // SAFETY: the block has this size.
    unsafe { address.write_bytes(0, layout.size()) };
    Some(address as u64)
}

/// # Safety
/// The address came from `allocate` with this size on this device, and nothing uses it any more.
unsafe fn deallocate(address: u64, bytes: usize, device: Device) {
    match device {
        // SAFETY: as the caller promises.
        Device::Cuda(_) => unsafe { memory::release(device, address) },
        Device::Cpu => {
            let layout = layout(bytes).expect("it was valid when the block was allocated");
            // SAFETY: as the caller promises.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }
}

impl Device {
    /// What the device's pool holds.
    pub fn memory(self) -> MemoryStats {
        pool(self).stats
    }

    /// Gives the pool's unused buffers back to the system.
    pub fn release_unused(self) {
        // A device that cannot be entered holds nothing.
        if let Ok(_entry) = enter(self) {
            pool(self).release_unused(self);
        }
    }

    /// Forgets how much was in tensors at one time before now.
    pub fn reset_high_water(self) {
        let mut pool = pool(self);
        pool.stats.high_water = pool.stats.in_use;
    }
}

/// The recording of a graph in progress: the pool notes what it hands out.
pub(crate) struct Recording {
    device: Device,
}

/// The memory that a recorded graph runs in; goes back to the pool when dropped.
pub(crate) struct Captured {
    device: Device,
    addresses: Vec<u64>,
}

/// Begins to note which buffers the device's pool hands out.
pub(crate) fn begin_capture(device: Device) -> Recording {
    pool(device).recording = Some(HashMap::new());
    Recording { device }
}

impl Recording {
    /// Ends the recording: what was handed out is the graph's from now on, whether a tensor still holds it or not.
    pub(crate) fn end(self) -> Captured {
        let mut pool = pool(self.device);
        let blocks = pool.recording.take().unwrap_or_default();
        for (&address, &kind) in &blocks {
            let free = pool.free.entry(kind).or_default();
            let place = free.iter().position(|&other| other == address);
            if let Some(place) = place {
                free.swap_remove(place);
            }
            let in_tensor = place.is_none();
            pool.of_graphs
                .insert(address, GraphBlock { kind, in_tensor });
        }
        Captured {
            device: self.device,
            addresses: blocks.into_keys().collect(),
        }
    }
}

impl Drop for Recording {
    /// Ends the recording also where what was to be recorded failed to begin.
    fn drop(&mut self) {
        pool(self.device).recording = None;
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        let mut pool = pool(self.device);
        for &address in &self.addresses {
            match pool.of_graphs.remove(&address) {
                Some(block) if !block.in_tensor => pool.put_back(block.kind, address),
                _ => {} // the tensor gives it back
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Properties, Stream, pretend};

    #[test]
    fn size_classes_waste_at_most_an_eighth_and_are_stable() {
        for bytes in (0..10_000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class >= ALIGNMENT);
            assert!(class <= (bytes + bytes / 4).max(bytes + ALIGNMENT));
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn large_blocks_start_where_a_huge_page_may() {
        for bytes in [HUGE_PAGE, 5 * HUGE_PAGE + 64] {
            let buffer = Buffer::new(bytes, Device::Cpu).unwrap();
            assert!(buffer.address.is_multiple_of(HUGE_PAGE as u64));
        }
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let error = Buffer::new(usize::MAX / 2, Device::Cpu).err();
        assert!(matches!(error, Some(Error::OutOfMemory { .. })));
    }

    #[test]
    fn a_recording_that_is_given_up_ends() {
        let [ampere, ..] = Properties::generations();
        let device = pretend(&Properties {
            name: "of this test alone".into(),
            ..ampere
        });
        drop(begin_capture(device));
        let address = Buffer::new(100, device).unwrap().address;
        drop(begin_capture(device).end());
        assert!(pool(device).recording.is_none());
        assert_eq!(Buffer::new(100, device).unwrap().address, address);
    }

    #[test]
    fn a_freed_block_waits_for_the_stream_it_was_taken_on() {
        let [_, _, blackwell] = Properties::generations();
        let device = pretend(&Properties {
            name: "of streams".into(),
            ..blackwell
        });
        let buffer = || Buffer::new(1000, device).unwrap();
        let stream = Stream::new(device).unwrap();
        let (here, there) = (buffer(), stream.scope(buffer));
        let (on_default, on_stream) = (here.address, there.address);
        // Where a block is dropped does not matter.
        drop(there);
        stream.scope(|| drop(here));
        assert_eq!(buffer().address, on_default);
        assert_eq!(stream.scope(buffer).address, on_stream);
        let recording = begin_capture(device);
        assert_eq!(stream.scope(buffer).address, on_stream);
        let memory = recording.end();
        assert_ne!(stream.scope(buffer).address, on_stream);
        drop(memory);
        assert_eq!(stream.scope(buffer).address, on_stream);
        assert_eq!(device.memory().allocations, 3);
        assert_eq!(device.memory().in_use, 0);
        device.release_unused();
        assert_eq!(device.memory().held, 0);
    }

    #[test]
    fn a_graphs_memory_is_not_handed_out_again_while_it_lives() {
        // The bookkeeping does not depend on the device, so the processor's pool stands for any.
        const BYTES: usize = 123_457; // a size class that no other test uses
        let device = Device::Cpu;
        let recording = begin_capture(device);
        let address = Buffer::new(BYTES, device).unwrap().address;
        let memory = recording.end();
        let other = Buffer::new(BYTES, device).unwrap();
        assert_ne!(other.address, address);
        drop(memory);
        let again = Buffer::new(BYTES, device).unwrap();
        assert_eq!(again.address, address);
    }
}
