//! Streams: queues of a device's work, each in order, independent of one another but for events.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::{result, sys};

use super::context::{self, State};
use super::event::Event;
use crate::{Device, Result};

thread_local! {
    /// The streams that this thread is in the scope of, each with its device, the innermost last.
    static SCOPES: RefCell<Vec<(Device, usize)>> = const { RefCell::new(Vec::new()) };
}

impl State {
    /// What names the stream that this thread queues on: of a card that is there, its handle.
    pub(crate) fn current(&self) -> usize {
        SCOPES.with_borrow(|scopes| {
            let scope = scopes.iter().rev().find(|scope| scope.0 == self.device);
            scope.map_or(self.default_stream, |scope| scope.1)
        })
    }

    /// The stream that this thread queues on; none where the card is pretended.
    pub(crate) fn stream(&self) -> Option<sys::CUstream> {
        self.context.map(|_| self.current() as sys::CUstream)
    }
}

/// A queue of work on a device. Work is queued on the device's default stream, unless the thread is in the
/// [`Stream::scope`] of another.
///
/// Streams run side by side: what one reads of another's results waits for an [`Event`] that was recorded behind them.
/// A tensor's memory is used again in the order of the stream that it was made on: where another stream reads a tensor,
/// that one has to wait for the reading before the tensor is dropped.
///
/// ```no_run
/// use serpens_core::cuda::{Event, Stream};
/// use serpens_core::{Device, Tensor};
///
/// # fn main() -> serpens_core::Result<()> {
/// let device = Device::cuda(0)?;
/// let (stream, ready) = (Stream::new(device)?, Event::new(device)?);
/// let x = Tensor::from_slice([2], &[1.0_f32, 2.0], device)?;
/// ready.record()?; // on the default stream
/// stream.wait(&ready)?;
/// let copy = stream.scope(|| x.to_vec::<f32>())?;
/// # Ok(())
/// # }
/// ```
pub struct Stream {
    device: Device,
    /// The handle; on a pretended card a number alone.
    name: usize,
    owned: bool,
}

impl Stream {
    /// A new stream.
    ///
    /// # Errors
    /// A device that cannot be used, or the processor.
    pub fn new(device: Device) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let mut name = NEXT.fetch_add(1, Ordering::Relaxed);
        context::of(device)?.queue("make a stream", |_| {
            name = result::stream::create(result::stream::StreamKind::NonBlocking)? as usize;
            Ok(())
        })?;
        Ok(Self {
            device,
            name,
            owned: true,
        })
    }

    /// A stream that is somebody else's, by the driver's handle: a `CUstream`, or a `cudaStream_t` of the runtime.
    /// Those of equal handles are one stream.
    ///
    /// # Safety
    /// The handle is of a live stream of the device's primary context. It stays so while this and what is queued
    /// through it lives, and its work has run when it ends.
    ///
    /// # Errors
    /// As [`Stream::new`].
    pub unsafe fn borrowed(device: Device, handle: *mut c_void) -> Result<Self> {
        context::of(device)?;
        Ok(Self {
            device,
            name: handle as usize,
            owned: false,
        })
    }

    /// The driver's handle, for others to queue work on; on a pretended card not to be used.
    pub fn handle(&self) -> *mut c_void {
        self.name as *mut c_void
    }

    /// Does `work`, during which whatever this thread queues on the device goes to this stream.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Leaves the scope however the work ends.
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                SCOPES.with_borrow_mut(Vec::pop);
            }
        }
        SCOPES.with_borrow_mut(|scopes| scopes.push((self.device, self.name)));
        let _leave = Leave;
        work()
    }

    /// Lets what is queued on this stream from now on wait until the event's stream has passed the event.
    pub fn wait(&self, event: &Event) -> Result<()> {
        context::of(self.device)?.queue("wait for an event", |_| {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // SAFETY: both handles are live.
            unsafe { result::stream::wait_event(self.name as sys::CUstream, event.event, flags) }
        })
    }
}

impl Drop for Stream {
    /// Waits for the stream where it is our own, as its memory may go to another one.
    fn drop(&mut self) {
        if self.owned
            && let Ok(entry) = context::of(self.device)
        {
            let stream = self.name as sys::CUstream;
            // SAFETY: made in `new`, destroyed once.
            let _ = entry.queue("end a stream", |_| unsafe {
                let _ = result::stream::synchronize(stream);
                result::stream::destroy(stream)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Properties, pretend};
    use super::*;

    #[test]
    fn a_scope_is_of_one_device_and_one_thread_and_ends_however_its_work_does() {
        let [ampere, hopper, _] = Properties::generations();
        let (device, other) = (pretend(&ampere), pretend(&hopper));
        let current = |device| context::of(device).unwrap().current();
        let (default, of_other) = (current(device), current(other));
        let (outer, inner) = (Stream::new(device).unwrap(), Stream::new(device).unwrap());
        outer.scope(|| {
            assert_eq!(current(device), outer.handle() as usize);
            assert_eq!(current(other), of_other);
            inner.scope(|| assert_eq!(current(device), inner.handle() as usize));
            assert_eq!(current(device), outer.handle() as usize);
            std::thread::scope(|threads| {
                threads.spawn(|| assert_eq!(current(device), default));
            });
        });
        let failed = std::panic::catch_unwind(|| outer.scope(|| panic!("on purpose")));
        assert!(failed.is_err());
        assert_eq!(current(device), default);
        // SAFETY: nothing is queued on a card that is not there.
        let borrowed = unsafe { Stream::borrowed(device, inner.handle()) }.unwrap();
        borrowed.scope(|| assert_eq!(current(device), inner.handle() as usize));
        borrowed.wait(&Event::new(device).unwrap()).unwrap();
        assert!(Stream::new(Device::Cpu).is_err());
    }
}
