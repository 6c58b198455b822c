//! Taking the time of repeated work: the device's own clock on a GPU, the system's on the processor.

use std::time::Instant;

use serpens_core::cuda::{Event, Graph};
use serpens_core::{Device, Result};

use super::median;

/// Seconds that one measurement lasts at least, so that the way from the host to the device does not count.
const SHORTEST: f64 = 3e-3;
/// Calls of one measurement at most.
const MOST_CALLS: f64 = 200.0;

/// Takes the time that a device spends on work.
pub(super) struct Clock {
    pub(super) device: Device,
    /// Measurements of which the median is taken.
    pub(super) runs: usize,
}

impl Clock {
    /// The median time of one call of `work` in seconds, after calls that are not counted.
    pub(super) fn seconds(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        let once = self.measure(1, &mut work)?;
        let calls = (SHORTEST / once).ceil().clamp(1.0, MOST_CALLS) as usize;
        let times = (0..self.runs).map(|_| self.measure(calls, &mut work));
        Ok(median(times.collect::<Result<_>>()?) / calls as f64)
    }

    /// As [`Clock::seconds`], of work on a GPU that is recorded once as a graph, so that the host does nothing between
    /// its kernels. Each time it is called it gets what `prepare` has made before, whose time does not count.
    pub(super) fn recorded<T>(
        &self,
        mut prepare: impl FnMut() -> Result<T>,
        mut work: impl FnMut(T) -> Result<()>,
    ) -> Result<f64> {
        work(prepare()?)?; // compiles the kernels, plans the matrix products
        let prepared = prepare()?;
        let graph = Graph::capture(self.device, || work(prepared))?;
        self.seconds(|| graph.replay())
    }

    fn measure(&self, calls: usize, work: &mut impl FnMut() -> Result<()>) -> Result<f64> {
        let calls = (0..calls).map(|_| work());
        if self.device == Device::Cpu {
            let start = Instant::now();
            calls.collect::<Result<()>>()?;
            return Ok(start.elapsed().as_secs_f64());
        }
        let (start, end) = (Event::new(self.device)?, Event::new(self.device)?);
        start.record()?;
        calls.collect::<Result<()>>()?;
        end.record()?;
        end.seconds_since(&start)
    }
}
