//! Compiling, on all threads at once, what work is going to ask for.

use rayon::prelude::*;

use super::kernel::module;
use super::rehearsal::asked_by;
use crate::{Device, Error, Result, driver};

/// Compiles and loads the kernels of `work` on all threads at once, before it runs: one after another, at the moment
/// each is first asked for, they would take the time of all together. `work` is called to learn them: meanwhile kernels
/// and matrix products do nothing, so that what it leaves in tensors means nothing. Only what is queued by the calling
/// thread counts.
///
/// # Errors
/// Those of `work`; [`crate::Error::Compile`].
pub fn compile_ahead<E: From<Error>>(
    device: Device,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    if driver::of(device)?.stream().is_none() {
        return work(); // a pretended card: whoever rehearses on it wants to know the programs
    }
    let programs = asked_by(work)?;
    let load = |program| module(&*driver::of(device)?, program).map(drop);
    Ok(programs.par_iter().try_for_each(load)?)
}
