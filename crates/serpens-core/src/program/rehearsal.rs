//! Rehearsals: work is called to learn which programs it asks for, so that all of them can be compiled at once, or
//! without a card.

use std::cell::RefCell;

use super::source::Program;
use crate::driver::{Properties, State, pretend};
use crate::{Device, Result};

thread_local! {
    /// While this thread rehearses, the programs that were asked for.
    static ASKED: RefCell<Option<Vec<Program>>> = const { RefCell::new(None) };
}

/// Runs `work` on a card of these properties that is not there, and gives the programs that it asked for, each once. No
/// driver is needed: memory of the device is addresses alone, whatever is queued does nothing, and what is read back is
/// zeros. Only what the calling thread asks for counts.
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
    asked_by(|| work(pretend(properties)))
}

/// The programs that `work` asks for, each once.
pub(super) fn asked_by<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Vec<Program>, E> {
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
pub(crate) fn rehearsing() -> bool {
    ASKED.with_borrow(Option::is_some)
}

/// Where this thread rehearses, notes the program. Says whether its kernels are to do nothing.
pub(super) fn note(state: &State, program: &Program) -> bool {
    ASKED.with_borrow_mut(|asked| {
        let Some(programs) = asked else {
            return state.stream().is_none();
        };
        if !programs.contains(program) {
            programs.push(program.clone());
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::super::{KernelParams, Source, compile_ahead, kernel};
    use super::*;
    use crate::driver::DevicePtr;
    use crate::{Error, kernel_params};

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
}
