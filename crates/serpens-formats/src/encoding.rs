//! How files store values.

use std::fmt;

use serpens_core::DType;

use Encoding::*;

/// How a file stores a tensor's values. Those of floating point, and the blocks of GGUF, are read as f32, U32 as u32;
/// the others are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names that they have everywhere")]
#[non_exhaustive]
pub enum Encoding {
    /// Single precision.
    F32,
    /// IEEE's half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Double precision.
    F64,
    /// Signed bytes.
    I8,
    /// Signed, of two bytes.
    I16,
    /// Signed, of four bytes.
    I32,
    /// Signed, of eight bytes.
    I64,
    /// Bytes.
    U8,
    /// Unsigned, of two bytes.
    U16,
    /// Unsigned, of four bytes.
    U32,
    /// Unsigned, of eight bytes.
    U64,
    /// A byte, which is 0 or 1.
    Bool,
    /// Blocks of 32 values: x = d q, with d in f16 and q of eight bits.
    Q8_0,
    /// Blocks of 32 values: x = d (q - 8), with d in f16 and q of four bits.
    Q4_0,
    /// Blocks of 256 values, of eight scales and minima of six bits: x = d scale q - dmin min, with q of four bits.
    Q4_K,
    /// Blocks of 256 values, of sixteen scales of eight bits: x = d scale (q - 32), with q of six bits.
    Q6_K,
    /// One that is known by this name alone.
    Other(&'static str),
}

impl Encoding {
    /// The one in which values of this type are stored as they are.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Encoding::BF16,
            DType::U32 => Encoding::U32,
            // The only other there is.
            _ => Encoding::F32,
        }
    }

    /// The one with this name, as files spell it, if it is known.
    pub fn named(name: &str) -> Option<Self> {
        const KNOWN: [Encoding; 17] = [
            F32, F16, BF16, F64, I8, I16, I32, I64, U8, U16, U32, U64, Bool, Q8_0, Q4_0, Q4_K, Q6_K,
        ];
        let is_named = |known: &Encoding| known.to_string().eq_ignore_ascii_case(name);
        KNOWN.into_iter().find(is_named)
    }

    /// Values of a block, and its bytes: both 1 where no more than the name is known.
    pub fn block(self) -> (usize, usize) {
        match self {
            F64 | I64 | U64 => (1, 8),
            F32 | I32 | U32 => (1, 4),
            F16 | BF16 | I16 | U16 => (1, 2),
            I8 | U8 | Bool | Other(_) => (1, 1),
            Q8_0 => (32, 34),
            Q4_0 => (32, 18),
            Q4_K => (256, 144),
            Q6_K => (256, 210),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Other(name) => f.write_str(name),
            known => fmt::Debug::fmt(known, f),
        }
    }
}
