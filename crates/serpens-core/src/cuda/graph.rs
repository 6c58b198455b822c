//! Graphs: a stretch of queued work, recorded once and queued again as a whole.

use cudarc::driver::{result, sys};

use crate::driver::{self, Event};
use crate::tensor::pool::{self, Captured};
use crate::{Device, Error, Result};

// SAFETY: the driver's handle may be used from any thread, by one at a time.
unsafe impl Send for Graph {}

/// Recorded work. Its kernels run with the addresses they were recorded with: the memory that the recording took from
/// the pool belongs to the graph until it is dropped.
pub struct Graph {
    device: Device,
    /// Null where the card is pretended.
    executable: sys::CUgraphExec,
    /// Behind the last replay: those of one graph run one after another.
    replayed: Event,
    _memory: Captured,
}

impl Graph {
    /// Records what `work` queues on the current stream, without running it. Work that waits for the device, or that
    /// reads host memory which is not pinned, cannot be recorded.
    ///
    /// # Errors
    /// Those of `work`; [`crate::Error::InUse`] inside another recording; what the driver refuses to record.
    pub fn capture<E: From<Error>>(
        device: Device,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let state = driver::of(device)?.state;
        let replayed = Event::new(device)?;
        let _alone = driver::alone("Graph::capture", device)?;
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED as MODE;
        let recording = pool::begin_capture(device);
        // SAFETY: the current stream is live.
        state.queue("begin to record a graph", |stream| unsafe {
            result::stream::begin_capture(stream, MODE)
        })?;
        let done = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: as above; a recording that failed is ended as well.
        let ended = state.queue("record a graph", |stream| unsafe {
            graph = result::stream::end_capture(stream)?;
            Ok(())
        });
        let memory = recording.end();
        done?;
        ended?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just recorded.
        state.queue("prepare a graph", |_| unsafe {
            let instantiated = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable = instantiated?;
            Ok(())
        })?;
        Ok(Self {
            device,
            executable,
            replayed,
            _memory: memory,
        })
    }

    /// Queues the recorded work on the current stream.
    pub fn replay(&self) -> Result<()> {
        let entry = driver::of(self.device)?;
        // SAFETY: both handles are live, and the graph's memory is kept for it.
        entry.queue("replay a graph", |stream| unsafe {
            result::graph::launch(self.executable, stream)
        })?;
        self.replayed.record()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.replayed.wait();
        if let Ok(entry) = driver::of(self.device) {
            // SAFETY: made in `capture`, destroyed once, after the last replay has run.
            let _ = entry.queue("end a graph", |_| unsafe {
                result::graph::exec_destroy(self.executable)
            });
        }
    }
}
