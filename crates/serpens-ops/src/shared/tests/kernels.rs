//! Every program that the operations ask for compiles for every kind of card, and the hot ones keep their values in
//! registers: they are found by rehearsal of the cases of each operation's `tests/devices.rs`. Needs NVRTC but no GPU.

use std::collections::HashSet;

use rayon::prelude::*;
use serpens_core::cuda::{LibraryKind, Program, Properties, find, rehearse};
use serpens_core::{DType, Device, Error};

use super::tell;

/// Runs the cases of each operation with kernels, with activations of a type.
pub(super) const OPERATIONS: &[fn(Device, DType)] = &[
    crate::causal_conv1d::tests::devices::run_all,
    crate::cross_entropy::tests::devices::run_all,
    crate::elementwise::tests::devices::run_all,
    crate::embedding::tests::devices::run_all,
    crate::linear::tests::devices::run_all,
    crate::long_conv::tests::devices::run_all,
    crate::lti_kernel::tests::devices::run_all,
    crate::optimizer::tests::devices::run_all,
    crate::reduce::tests::devices::run_all,
    crate::rms_norm::tests::devices::run_all,
    crate::sampling::tests::devices::run_all,
    crate::selective_scan::tests::devices::run_all,
    crate::softmax::tests::devices::run_all,
];

/// Set where a machine without NVRTC must not pass, such as CI.
const REQUIRE: &str = "SERPENS_REQUIRE_NVRTC";

#[test]
fn every_program_compiles_for_every_card_and_hot_ones_do_not_spill() {
    if let Err(reason) = find(LibraryKind::Nvrtc) {
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "{REQUIRE} is set, but {reason}"
        );
        tell(&format!("the kernels were not compiled: {reason}"));
        return;
    }
    let cards = Properties::generations();
    // Several operations may ask for one program.
    let programs: HashSet<((u32, u32), Program)> = cards
        .par_iter()
        .flat_map(|card| {
            let found = OPERATIONS.par_iter().flat_map(|run| asked_by(card, *run));
            found.map(move |program| (card.capability, program))
        })
        .collect();
    let mut complaints: Vec<String> = programs
        .par_iter()
        .flat_map_iter(|(capability, program)| complaints(program, *capability))
        .collect();
    complaints.sort();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    println!("{} programs for {} cards", programs.len(), cards.len());
}

/// The programs of an operation on a card.
fn asked_by(card: &Properties, run: fn(Device, DType)) -> Vec<Program> {
    let every_type = |device| {
        run(device, DType::F32);
        run(device, DType::BF16);
        Ok::<_, Error>(())
    };
    rehearse(card, every_type).unwrap()
}

/// What is wrong with one program on one kind of card.
fn complaints(program: &Program, capability: (u32, u32)) -> Vec<String> {
    let defines = program
        .defines
        .iter()
        .map(|(name, value)| format!(" {name}={value}"));
    let name = format!(
        "{} for sm_{}{} with{}",
        program.source.name,
        capability.0,
        capability.1,
        defines.collect::<String>()
    );
    match program.compile(capability) {
        Err(Error::Compile { log, .. }) => vec![format!("{name} does not compile:\n{log}")],
        Err(error) => vec![format!("{name}: {error}")],
        Ok((_, kernels)) if kernels.is_empty() => vec![format!("{name} holds no kernel")],
        Ok((_, kernels)) => kernels
            .iter()
            .filter(|kernel| !program.may_spill() && kernel.spills > 0)
            .map(|kernel| {
                let (kernel, registers, spills) = (&kernel.kernel, kernel.registers, kernel.spills);
                format!("{name}: {kernel} spills {spills} bytes at {registers} registers")
            })
            .collect(),
    }
}
