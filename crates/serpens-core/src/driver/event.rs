//! Events: points in a stream, for timing and waiting.

use cudarc::driver::{result, sys};

use super::context;
use crate::{Device, Result};

// SAFETY: the driver's handle may be used from any thread, by one at a time.
unsafe impl Send for Event {}

/// A point in a stream.
pub struct Event {
    device: Device,
    /// The driver's handle; null where the card is pretended.
    pub(super) event: sys::CUevent,
}

impl Event {
    /// An event that is past until it is recorded.
    pub fn new(device: Device) -> Result<Self> {
        let mut event = std::ptr::null_mut();
        context::of(device)?.queue("make an event", |_| {
            event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT)?;
            Ok(())
        })?;
        Ok(Self { device, event })
    }

    /// Puts the event at the end of the current stream.
    pub fn record(&self) -> Result<()> {
        context::of(self.device)?.queue("record an event", |stream| {
            // SAFETY: both handles are live.
            unsafe { result::event::record(self.event, stream) }
        })
    }

    /// Waits until the stream has passed the event.
    pub fn wait(&self) -> Result<()> {
        context::of(self.device)?.queue("wait for the device", |_| {
            // SAFETY: the event is live.
            unsafe { result::event::synchronize(self.event) }
        })
    }

    /// Seconds on the device from `start` to this event; waits for both.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        self.wait()?;
        let mut milliseconds = 0.0;
        context::of(self.device)?.queue("read an event's time", |_| {
            // SAFETY: both events are live.
            milliseconds = unsafe { result::event::elapsed(start.event, self.event)? };
            Ok(())
        })?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(entry) = context::of(self.device) {
            // SAFETY: made in `new`, destroyed once.
            let _ = entry.queue("end an event", |_| unsafe {
                result::event::destroy(self.event)
            });
        }
    }
}
