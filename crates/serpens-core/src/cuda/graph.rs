//! Graphs: a stretch of queued work, recorded once and queued again as a whole.

use std::sync::PoisonError;

use cudarc::driver::{result, sys};

use super::driver_error;
use super::state::{self, State};
use crate::pool::{self, Captured};
use crate::{Device, Result};

// SAFETY: the driver's handle may be used from any thread, by one at a time.
unsafe impl Send for Graph {}

/// Recorded work. Its kernels run with the addresses they were recorded with: the memory that the recording took from the pool
/// belongs to the graph until it is dropped.
pub struct Graph {
    state: &'static State,
    executable: sys::CUgraphExec,
    _memory: Captured,
}

impl Graph {
    /// Records what `work` queues, without running it. Work that waits for the device, or that reads host memory which is not
    /// pinned, cannot be recorded.
    pub fn capture(device: Device, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let state = state::of(device)?.state();
        let _alone = state::alone(device)?;
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED as MODE;
        let recording = pool::begin_capture(device);
        // SAFETY: the stream lives as long as the process.
        unsafe { result::stream::begin_capture(state.stream, MODE) }
            .map_err(driver_error("begin to record a graph"))?;
        let done = work();
        // SAFETY: as above; a recording that failed is ended as well.
        let graph = unsafe { result::stream::end_capture(state.stream) };
        let memory = recording.end();
        done?;
        let graph = graph.map_err(driver_error("record a graph"))?;
        // SAFETY: the graph was just recorded.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable.map_err(driver_error("prepare a graph"))?
        };
        Ok(Self {
            state,
            executable,
            _memory: memory,
        })
    }

    /// Queues the recorded work.
    pub fn replay(&self) -> Result<()> {
        let entry = state::of(self.state.device)?;
        // Products of matrices share one workspace. One that another thread is queuing may take two kernels, between which this
        // must not fall.
        let _products = entry
            .products
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both handles are live, and the graph's memory is kept for it.
        unsafe { result::graph::launch(self.executable, self.state.stream) }
            .map_err(driver_error("replay a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_entry) = state::of(self.state.device) {
            // SAFETY: made in `capture`, destroyed once, after the last replay has run.
            unsafe {
                let _ = result::stream::synchronize(self.state.stream);
                let _ = result::graph::exec_destroy(self.executable);
            }
        }
    }
}
