//! Compiling ahead: every kernel that a piece of work needs, on all threads at once, before the work runs. One after another, at
//! the moment each is first asked for, they would take the time of all together.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::kernel::{self, Defines, Source};
use super::state;
use crate::{Device, Result};

type Program = (&'static Source, Defines);

thread_local! {
    /// While this thread rehearses, the programs that were asked for.
    static ASKED: RefCell<Option<Vec<Program>>> = const { RefCell::new(None) };
}

/// Compiles and loads the kernels of `work`, which is called to learn them: meanwhile kernels and matrix products do nothing, so
/// that what it leaves in tensors means nothing. Only what is queued by the calling thread counts.
///
/// # Errors
/// Those of `work`; [`crate::Error::Compile`].
pub fn compile_ahead(device: Device, work: impl FnOnce() -> Result<()>) -> Result<()> {
    drop(state::of(device)?);
    let programs = rehearse(work)?;
    let next = AtomicUsize::new(0);
    let load_some = || -> Result<()> {
        let state = state::of(device)?;
        while let Some((source, defines)) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            kernel::module(&state, source, defines)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(programs.len()))
            .map(|_| scope.spawn(load_some))
            .collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect()
    })
}

/// The programs that `work` asks for, each once.
fn rehearse(work: impl FnOnce() -> Result<()>) -> Result<Vec<Program>> {
    /// Ends the rehearsal however the work ends.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            ASKED.take();
        }
    }
    ASKED.set(Some(Vec::new()));
    let end = End;
    work()?;
    let programs = ASKED.take();
    drop(end);
    Ok(programs.unwrap_or_default())
}

/// Whether this thread rehearses.
pub(super) fn rehearsing() -> bool {
    ASKED.with_borrow(Option::is_some)
}

/// Where this thread rehearses, notes the program; says whether it does.
pub(super) fn note(source: &'static Source, defines: &Defines) -> bool {
    ASKED.with_borrow_mut(|asked| {
        let Some(programs) = asked else { return false };
        let known = |(other, others): &Program| std::ptr::eq(*other, source) && others == defines;
        if !programs.iter().any(known) {
            programs.push((source, defines.clone()));
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    static SOURCE: Source = Source::new("nothing", "");

    #[test]
    fn a_rehearsal_notes_each_program_once_and_ends_with_the_work() {
        let wide: Defines = vec![("VEC".into(), "8".into())];
        assert!(!note(&SOURCE, &wide));
        let programs = rehearse(|| {
            for defines in [&wide, &Vec::new(), &wide] {
                assert!(note(&SOURCE, defines));
            }
            Ok(())
        });
        let defines: Vec<Defines> = programs
            .unwrap()
            .into_iter()
            .map(|program| program.1)
            .collect();
        assert_eq!(defines, [wide, Vec::new()]);
        assert!(!rehearsing());
        let failed = rehearse(|| Err(Error::argument("work", "no")));
        assert!(failed.is_err() && !rehearsing());
    }
}
