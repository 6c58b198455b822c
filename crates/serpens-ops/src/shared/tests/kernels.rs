//! The operations' programs compile for every kind of card, and the hot ones, which are all that may not spill, keep
//! their values in registers. They are found by rehearsal of the cases of each operation's `tests/devices.rs`, all of
//! which a GPU compiles that runs them. Here, where no GPU is needed but NVRTC, those are compiled that tell something
//! new:
//!
//! - for Hopper, which Serpens is measured on, all hot ones, and of the others so many that each value of each macro
//!   comes once;
//! - for other cards so many hot ones that each value of each of their macros comes once, and one of each source that
//!   has none.

use std::collections::HashSet;

use rayon::prelude::*;
use serpens_core::cuda::{LibraryKind, Program, Properties, find, rehearse};
use serpens_core::{DType, Device, Error};

use super::tell;

/// Runs the cases of each operation with kernels, with activations of a type.
pub(super) const OPERATIONS: &[fn(Device, DType)] = &[
    crate::attention::tests::devices::run_all,
    crate::causal_conv1d::tests::devices::run_all,
    crate::cross_entropy::tests::devices::run_all,
    crate::elementwise::tests::devices::run_all,
    crate::embedding::tests::devices::run_all,
    crate::linear::tests::devices::run_all,
    crate::long_conv::tests::devices::run_all,
    crate::lti_kernel::tests::devices::run_all,
    crate::mamba_layers::tests::devices::run_all,
    crate::offset_scale::tests::devices::run_all,
    crate::optimizer::tests::devices::run_all,
    crate::pooling::tests::devices::run_all,
    crate::positions::tests::devices::run_all,
    crate::reduce::tests::devices::run_all,
    crate::rms_norm::tests::devices::run_all,
    crate::rope::tests::devices::run_all,
    crate::sampling::tests::devices::run_all,
    crate::selective_scan::tests::devices::run_all,
    crate::softmax::tests::devices::run_all,
    crate::swap_axes::tests::devices::run_all,
];

/// Set where a machine without NVRTC must not pass, such as CI.
const REQUIRE: &str = "SERPENS_REQUIRE_NVRTC";

#[test]
fn programs_compile_for_every_card_and_hot_ones_do_not_spill() {
    if let Err(reason) = find(LibraryKind::Nvrtc) {
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "{REQUIRE} is set, but {reason}"
        );
        tell(&format!("the kernels were not compiled: {reason}"));
        return;
    }
    let cards = Properties::generations();
    let programs: Vec<((u32, u32), Program)> = cards
        .par_iter()
        .flat_map(|card| {
            let found = OPERATIONS.par_iter().flat_map(|run| asked_by(card, *run));
            // Several operations may ask for one program.
            let found: HashSet<Program> = found.collect();
            let of_card = |program| (card.capability, program);
            telling(found, card.capability.0 == 9)
                .into_par_iter()
                .map(of_card)
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

/// Those of a card's programs that are compiled, as above; Hopper is `measured`.
fn telling(found: HashSet<Program>, measured: bool) -> Vec<Program> {
    let mut found: Vec<Program> = found.into_iter().collect();
    found.sort_by_cached_key(|program| (program.source.name, program.defines.clone()));
    let (mut told, mut seen) = (Vec::new(), HashSet::new());
    for hot in [true, false] {
        let of_kind = found.iter().filter(|program| program.may_spill() != hot);
        let mut rest: Vec<&Program> = of_kind.collect();
        let with_values = hot || measured;
        let news = |program: &Program, seen: &HashSet<_>| {
            let news = facets(program, with_values).filter(|facet| !seen.contains(facet));
            news.count()
        };
        // Of the rest always the one that tells the most.
        while let Some(most) = (0..rest.len()).max_by_key(|&i| news(rest[i], &seen)) {
            let program = rest.swap_remove(most);
            if news(program, &seen) > 0 || hot && measured {
                seen.extend(facets(program, with_values));
                told.push(program.clone());
            }
        }
    }
    told
}

/// A program's source and, where they count, each of its macros with its value.
fn facets(
    program: &Program,
    with_values: bool,
) -> impl Iterator<Item = (&'static str, Option<&(String, String)>)> {
    let defines = program.defines.iter().filter(move |_| with_values);
    let facets = std::iter::once(None).chain(defines.map(Some));
    facets.map(|facet| (program.source.name, facet))
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
