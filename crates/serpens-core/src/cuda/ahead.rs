//! Rehearsals: work is called to learn which programs it asks for, so that all of them can be compiled at once, or without a card.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::kernel::{self, Defines, Program, Source};
use super::state::{self, Properties, State};
use crate::{Device, Result};

thread_local! {
    /// While this thread rehearses, the programs that were asked for.
    static ASKED: RefCell<Option<Vec<Program>>> = const { RefCell::new(None) };
}

/// Compiles and loads the kernels of `work` on all threads at once, before it runs: one after another, at the moment each is first
/// asked for, they would take the time of all together. `work` is called to learn them: meanwhile kernels and matrix products do
/// nothing, so that what it leaves in tensors means nothing. Only what is queued by the calling thread counts.
///
/// # Errors
/// Those of `work`; [`crate::Error::Compile`].
pub fn compile_ahead(device: Device, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if state::of(device)?.stream().is_none() {
        return work(); // a pretended card: whoever rehearses on it wants to know the programs
    }
    let programs = asked_by(work)?;
    let next = AtomicUsize::new(0);
    let load_some = || -> Result<()> {
        let state = state::of(device)?;
        while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            kernel::module(&state, program.source, &program.defines)?;
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

/// Runs `work` on a card of these properties that is not there, and gives the programs that it asked for, each once. No driver is
/// needed: memory of the device is addresses alone, whatever is queued does nothing, and what is read back is zeros. Only what the
/// calling thread asks for counts.
///
/// ```
/// use serpens_core::cuda::{Properties, rehearse};
/// use serpens_core::{DType, Tensor};
///
/// let [_, hopper, _] = Properties::generations();
/// let programs = rehearse(&hopper, |device| {
///     let x = Tensor::zeros([2, 3], DType::F32, device)?; // an operation on x would ask for its kernels here
///     assert_eq!(x.to_vec::<f32>()?, [0.0; 6]);
///     Ok::<_, serpens_core::Error>(())
/// });
/// assert!(programs.unwrap().is_empty());
/// ```
///
/// # Errors
/// Those of `work`.
pub fn rehearse<E>(
    properties: &Properties,
    work: impl FnOnce(Device) -> Result<(), E>,
) -> Result<Vec<Program>, E> {
    asked_by(|| work(state::pretend(properties)))
}

/// The programs that `work` asks for, each once.
fn asked_by<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Vec<Program>, E> {
    /// Ends the rehearsal however the work ends: one around it goes on.
    struct End(Option<Vec<Program>>);
    impl Drop for End {
        fn drop(&mut self) {
            ASKED.set(self.0.take());
        }
    }
    let _end = End(ASKED.replace(Some(Vec::new())));
    work()?;
    Ok(ASKED.take().unwrap_or_default())
}

/// Whether this thread rehearses.
pub(super) fn rehearsing() -> bool {
    ASKED.with_borrow(Option::is_some)
}

/// Where this thread rehearses, notes the program. Says whether its kernels are to do nothing.
pub(super) fn note(state: &State, source: &'static Source, defines: &Defines) -> bool {
    ASKED.with_borrow_mut(|asked| {
        let Some(programs) = asked else {
            return state.stream().is_none();
        };
        let known =
            |other: &Program| std::ptr::eq(other.source, source) && other.defines == *defines;
        if !programs.iter().any(known) {
            let defines = defines.clone();
            programs.push(Program { source, defines });
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::super::{
        DevicePtr, Event, Gemm, Graph, KernelParams, Operand, Staging, gemm, kernel,
    };
    use super::*;
    use crate::{DType, Error, Tensor, kernel_params};

    kernel_params! {
        struct FillParams {
            to: DevicePtr as "float*",
        }
    }
    static SOURCE: Source = Source::new("nothing", "")
        .params(&[FillParams::declare])
        .may_spill(|program| program.number("VEC") > Some(4));

    fn ask(device: Device, vec: &str) -> Result<()> {
        let kernel = kernel(device, &SOURCE, "fill", &[("VEC", vec)])?;
        let params = FillParams {
            to: DevicePtr::NULL,
        };
        // SAFETY: nothing is run on a card that is not there.
        unsafe { kernel.launch([1, 1, 1], 32, 0, &params) }
    }

    #[test]
    fn a_rehearsal_notes_each_program_once_and_ends_with_the_work() {
        let [ampere, ..] = Properties::generations();
        let mut device = Device::Cpu;
        let programs = rehearse(&ampere, |pretended| {
            device = pretended;
            for vec in ["8", "2", "8"] {
                ask(device, vec)?;
            }
            compile_ahead(device, || ask(device, "4"))?;
            let inner = rehearse(&ampere, |device| ask(device, "1"))?;
            assert_eq!(inner.len(), 1);
            Ok::<_, Error>(())
        });
        let programs = programs.unwrap();
        let vecs: Vec<_> = programs
            .iter()
            .map(|program| program.number("VEC"))
            .collect();
        assert_eq!(vecs, [8, 2, 4].map(Some));
        let spills: Vec<_> = programs.iter().map(Program::may_spill).collect();
        assert_eq!(spills, [true, false, false]);
        assert!(!rehearsing());
        // The card is still not there, whether or not anybody listens.
        ask(device, "8").unwrap();
        let failed = rehearse(&ampere, |_| Err("no"));
        assert!(failed.is_err() && !rehearsing());
    }

    #[test]
    fn a_pretended_card_takes_all_kinds_of_work_and_gives_zeros() {
        let [_, hopper, _] = Properties::generations();
        let work = |device| {
            assert_eq!(
                super::super::multiprocessors(device)?,
                hopper.multiprocessors
            );
            let mut x = Tensor::from_slice([4], &[1.0_f32, 2.0, 3.0, 4.0], device)?;
            let shared = x.clone();
            Staging::new(device, 16)?.upload(&mut x, &[5.0_f32; 4])?;
            assert_ne!(x.view().ptr(), shared.view().ptr());
            assert_eq!(x.to_vec::<f32>()?, [0.0; 4]);
            let operand = |ptr| Operand {
                ptr,
                stride: 2,
                dtype: DType::F32,
                transposed: false,
            };
            let problem = Gemm {
                m: 2,
                n: 2,
                k: 2,
                a: operand(x.view().ptr()),
                b: operand(shared.view().ptr()),
                c: operand(DevicePtr::NULL),
                accumulate: false,
                tf32: false,
            };
            let (start, end) = (Event::new(device)?, Event::new(device)?);
            start.record()?;
            let graph = Graph::capture(device, || {
                // SAFETY: nothing is run on a card that is not there.
                unsafe { gemm(device, &problem) }
            })?;
            graph.replay()?;
            end.record()?;
            assert_eq!(end.seconds_since(&start)?, 0.0);
            device.synchronize()
        };
        assert!(rehearse(&hopper, work).unwrap().is_empty());
        let unknown = Device::cuda(1 << 20);
        assert!(matches!(unknown, Err(Error::NoDevice { .. })));
    }
}
