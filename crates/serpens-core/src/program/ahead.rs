//! Compiling, on all threads at once, what work is going to ask for.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::kernel::module;
use super::rehearsal::asked_by;
use crate::{Device, Result, driver};

/// Compiles and loads the kernels of `work` on all threads at once, before it runs: one after another, at the moment
/// each is first asked for, they would take the time of all together. `work` is called to learn them: meanwhile kernels
/// and matrix products do nothing, so that what it leaves in tensors means nothing. Only what is queued by the calling
/// thread counts.
///
/// # Errors
/// Those of `work`; [`crate::Error::Compile`].
pub fn compile_ahead(device: Device, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if driver::of(device)?.stream().is_none() {
        return work(); // a pretended card: whoever rehearses on it wants to know the programs
    }
    let programs = asked_by(work)?;
    let next = AtomicUsize::new(0);
    let load_some = || -> Result<()> {
        let state = driver::of(device)?;
        while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            module(&state, program)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(programs.len()))
            .map(|_| scope.spawn(load_some))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        let results = joined.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)));
        results.collect()
    })
}
