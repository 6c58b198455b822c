//! Events: points in a device's queue, for timing and waiting.

use cudarc::driver::{result, sys};

use super::driver_error;
use super::state::{self, State};
use crate::{Device, Result};

// SAFETY: the driver's handle may be used from any thread, by one at a time.
unsafe impl Send for Event {}

/// A point in a device's queue.
pub struct Event {
    state: &'static State,
    event: sys::CUevent,
}

impl Event {
    /// An event that is past until it is recorded.
    pub fn new(device: Device) -> Result<Self> {
        let entry = state::of(device)?;
        let event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT)
            .map_err(driver_error("make an event"))?;
        Ok(Self {
            state: entry.state(),
            event,
        })
    }

    /// Puts the event at the end of the queue.
    pub fn record(&self) -> Result<()> {
        let _entry = state::of(self.state.device)?;
        // SAFETY: both handles are live.
        unsafe { result::event::record(self.event, self.state.stream) }
            .map_err(driver_error("record an event"))
    }

    /// Waits until the queue has passed the event.
    pub fn wait(&self) -> Result<()> {
        let _entry = state::of(self.state.device)?;
        // SAFETY: the event is live.
        unsafe { result::event::synchronize(self.event) }
            .map_err(driver_error("wait for the device"))
    }

    /// Seconds on the device from `start` to this event; waits for both.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        self.wait()?;
        // SAFETY: both events are live.
        let milliseconds = unsafe { result::event::elapsed(start.event, self.event) };
        Ok(f64::from(milliseconds.map_err(driver_error("read an event's time"))?) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entry) = state::of(self.state.device) {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}
