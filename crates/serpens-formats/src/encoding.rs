//! How files store values.

use std::fmt;

use serpens_core::{DType, Shape};
use serpens_ops::quantized_linear::Blocks;

use Encoding::*;

use crate::Fault;

/// How a file stores a tensor's values. Those of floating point, and the blocks of GGUF, are read as f32, U32 as u32;
/// others are known by name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Unsigned, of four bytes.
    U32,
    /// Blocks of values that are quantised together.
    Blocks(Blocks),
    /// One that is known by this name alone.
    Other(&'static str),
}

impl Encoding {
    /// The one in which values of this type are stored as they are.
    pub fn of(dtype: DType) -> Self {
        Encoding::named(&dtype.to_string()).expect("each type is one")
    }

    /// The one with this name, as files spell it, if it is known.
    pub fn named(name: &str) -> Option<Self> {
        let blocks = Blocks::ALL.map(Encoding::Blocks);
        let mut known = [F32, F16, BF16, F64, U32].into_iter().chain(blocks);
        known.find(|known| known.to_string().eq_ignore_ascii_case(name))
    }

    /// Values of a block, and its bytes: both 1 where no more than the name is known.
    pub fn block(self) -> (usize, usize) {
        match self {
            F64 => (1, 8),
            F32 | U32 => (1, 4),
            F16 | BF16 => (1, 2),
            Other(_) => (1, 1),
            Encoding::Blocks(kind) => (kind.values(), kind.bytes()),
        }
    }

    /// The bytes of a tensor of this shape, whose rows are whole blocks.
    pub fn bytes(self, shape: Shape) -> usize {
        let (block, size) = self.block();
        (shape.count() / block).saturating_mul(size)
    }

    /// This one where rows of `cols` values are whole blocks of it; for others one that comes near: smaller blocks, or
    /// none.
    pub fn for_rows(self, cols: usize) -> Encoding {
        let near = [self, Encoding::Blocks(Blocks::Q8_0)];
        let mut whole = near
            .into_iter()
            .filter(|near| cols.is_multiple_of(near.block().0));
        match self {
            Encoding::Blocks(_) => whole.next().unwrap_or(BF16),
            _ => self,
        }
    }

    /// The bytes of a tensor of this name and shape.
    pub(crate) fn size(self, name: &str, shape: Shape) -> Result<usize, Fault> {
        let whole = shape.cols().is_multiple_of(self.block().0);
        let bytes = whole.then(|| self.bytes(shape));
        bytes.ok_or_else(|| Fault::Columns(name.to_owned(), Box::new(shape), self))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Other(name) => f.write_str(name),
            Encoding::Blocks(kind) => kind.fmt(f),
            known => fmt::Debug::fmt(known, f),
        }
    }
}
