//! Every kernel compiles for every kind of card that Serpens names, and the hot ones keep their values in registers. Needs NVRTC but
//! no GPU.

use std::io::Write;

use rayon::prelude::*;
use serpens_core::Error;
use serpens_core::cuda::{LibraryKind, Variant, compile, find};
use serpens_ops::cuda_variants;

/// Compute capabilities: Ampere, Hopper, Blackwell.
const CAPABILITIES: [(u32, u32); 3] = [(8, 0), (9, 0), (10, 0)];

/// Set where a machine without NVRTC must not pass, such as CI.
const REQUIRE: &str = "SERPENS_REQUIRE_NVRTC";

#[test]
fn every_variant_compiles_for_every_card_and_hot_ones_do_not_spill() {
    if let Err(reason) = find(LibraryKind::Nvrtc) {
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "{REQUIRE} is set, but {reason}"
        );
        // Past the capture of tests; nobody hears it where the stream is closed.
        let _ = writeln!(std::io::stderr(), "the kernels were not compiled: {reason}");
        return;
    }
    let variants = cuda_variants();
    let cases: Vec<(&Variant, (u32, u32))> = variants
        .iter()
        .flat_map(|variant| CAPABILITIES.map(|capability| (variant, capability)))
        .collect();
    let mut complaints: Vec<String> = cases
        .par_iter()
        .flat_map_iter(|&(variant, capability)| complaints(variant, capability))
        .collect();
    complaints.sort();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    println!(
        "{} programs for {} kinds of card",
        variants.len(),
        CAPABILITIES.len()
    );
}

/// What is wrong with one variant on one kind of card.
fn complaints(variant: &Variant, (major, minor): (u32, u32)) -> Vec<String> {
    let defines: Vec<(String, String)> = variant
        .defines
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let name = format!(
        "{} for sm_{major}{minor} with {}",
        variant.source.name,
        describe(&defines)
    );
    match compile(variant.source, (major, minor), &defines) {
        Err(Error::Compile { log, .. }) => vec![format!("{name} does not compile:\n{log}")],
        Err(error) => vec![format!("{name}: {error}")],
        Ok((_, kernels)) if kernels.is_empty() => vec![format!("{name} holds no kernel")],
        Ok((_, kernels)) => kernels
            .iter()
            .filter(|kernel| variant.hot && kernel.spills > 0)
            .map(|kernel| {
                let (kernel, registers, spills) = (&kernel.kernel, kernel.registers, kernel.spills);
                format!("{name}: {kernel} spills {spills} bytes at {registers} registers")
            })
            .collect(),
    }
}

fn describe(defines: &[(String, String)]) -> String {
    let words: Vec<String> = defines
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(" ")
}
