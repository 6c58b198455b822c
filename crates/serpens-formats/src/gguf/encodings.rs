//! The numbers of encodings.

use crate::Encoding;

/// Names, each at its number; those that were given up have none.
#[rustfmt::skip]
const NAMES: [&str; 42] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
    "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4", "NVFP4", "Q1_0",
];

/// The encoding that has a number.
pub(super) fn encoding(number: u32) -> Option<Encoding> {
    let name = NAMES.get(number as usize).filter(|name| !name.is_empty())?;
    Some(Encoding::named(name).unwrap_or(Encoding::Other(name)))
}

/// The number of an encoding, if it has one.
pub(super) fn number(encoding: Encoding) -> Option<u32> {
    let name = encoding.to_string();
    let at = NAMES.iter().position(|known| *known == name);
    at.map(|at| at as u32)
}
