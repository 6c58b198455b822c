//! The pool of buffers on the processor: a freed buffer waits for the next tensor of its size class, so that a training
//! loop allocates in its first steps only.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// Buffers start at a cache line, which is also the widest SIMD vector.
const ALIGNMENT: usize = 64;

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

#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Block>>,
    stats: MemoryStats,
}

/// One block obtained from the system.
struct Block {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a block is plain memory without ties to a thread; its owner alone reaches it.
unsafe impl Send for Block {}
// SAFETY: a shared block is only read.
unsafe impl Sync for Block {}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, Pool> {
    // Every update below leaves the pool consistent, so a panic elsewhere does not spoil it.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of a tensor; goes back to the pool when dropped. Its bytes are always initialised, though to anything.
pub(crate) struct Buffer(Block);

impl Buffer {
    /// A buffer of at least `bytes` bytes with any contents.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let class = size_class(bytes);
        let mut pool = lock();
        let block = match pool.free.get_mut(&class).and_then(Vec::pop) {
            Some(block) => block,
            None => {
                let block = allocate(class).ok_or(Error::OutOfMemory {
                    requested: bytes,
                    held: pool.stats.held,
                })?;
                pool.stats.held += class;
                pool.stats.allocations += 1;
                block
            }
        };
        pool.stats.in_use += class;
        pool.stats.high_water = pool.stats.high_water.max(pool.stats.in_use);
        Ok(Buffer(block))
    }

    /// The first byte.
    pub(crate) fn address(&self) -> *mut u8 {
        self.0.address.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Block { address, bytes } = self.0;
        let mut pool = lock();
        pool.stats.in_use -= bytes;
        pool.free
            .entry(bytes)
            .or_default()
            .push(Block { address, bytes });
    }
}

/// Rounds up to an eighth of the next power of two, so that at most an eighth is wasted and near sizes share blocks.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.checked_next_power_of_two().unwrap_or(bytes) / 8).max(ALIGNMENT);
    bytes.max(1).checked_next_multiple_of(step).unwrap_or(bytes)
}

fn allocate(bytes: usize) -> Option<Block> {
    let layout = Layout::from_size_align(bytes, ALIGNMENT).ok()?;
    // SAFETY: the layout's size is not zero, as `size_class` returns at least ALIGNMENT.
    let address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    Some(Block { address, bytes })
}

pub(crate) fn stats() -> MemoryStats {
    lock().stats
}

pub(crate) fn release_unused() {
    let mut pool = lock();
    let free = std::mem::take(&mut pool.free);
    for block in free.into_values().flatten() {
        pool.stats.held -= block.bytes;
        let layout = Layout::from_size_align(block.bytes, ALIGNMENT)
            .expect("the layout was valid when the block was allocated");
        // SAFETY: allocated by `allocate` with this layout, and owned by nobody else.
        unsafe { dealloc(block.address.as_ptr(), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_impossible_size_is_an_error() {
        let error = Buffer::new(usize::MAX / 2).err();
        assert!(matches!(error, Some(Error::OutOfMemory { .. })));
    }
}
