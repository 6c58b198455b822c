//! Matrices of few bits for each value: in blocks with scales of their own, as GGUF files have them.

pub mod cpu;

use std::fmt;

/// A kind of blocks, the layout of GGUF's of the same name: d and dmin in f16, 4 bits two values to a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names that they have everywhere")]
pub enum Blocks {
    /// 32 values of eight bits: x = d q.
    Q8_0,
    /// 32 values of four bits: x = d (q - 8).
    Q4_0,
    /// 256 values of four bits, with eight scales and minima of six bits: x = d scale q - dmin min.
    Q4_K,
    /// 256 values of six bits, with sixteen scales of eight bits: x = d scale (q - 32).
    Q6_K,
}

impl Blocks {
    /// Every kind.
    pub const ALL: [Blocks; 4] = [Blocks::Q8_0, Blocks::Q4_0, Blocks::Q4_K, Blocks::Q6_K];

    /// Values of a block.
    pub fn values(self) -> usize {
        match self {
            Blocks::Q8_0 | Blocks::Q4_0 => 32,
            Blocks::Q4_K | Blocks::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Blocks::Q8_0 => 34,
            Blocks::Q4_0 => 18,
            Blocks::Q4_K => 144,
            Blocks::Q6_K => 210,
        }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
