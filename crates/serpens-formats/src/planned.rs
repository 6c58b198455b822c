//! Tensors that are going to be written: what a file says of them before their values are at hand.

use std::borrow::Cow;
use std::path::Path;

use serpens_core::{DType, Shape, Tensor};

use crate::{Encoding, Error, Result, blocks};

/// What a file is to say of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its shape, which is also that of the value to come.
    pub shape: Shape,
    /// How its values are stored. A value in f32 can be in any of F32, F16, BF16, Q8_0 and Q4_0; others as they are.
    pub encoding: Encoding,
}

/// Why a tensor cannot be written as planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unwritable {
    /// Its rows are no whole blocks.
    #[error("rows of {cols} are no whole blocks of {block} values; choose F16 or F32")]
    Columns {
        /// The size of the last axis.
        cols: usize,
        /// Values in a block.
        block: usize,
    },
    /// A value cannot be held.
    #[error("a value is NaN, infinite or too large for it; choose BF16 or F32")]
    Value,
    /// The value is of another shape than planned.
    #[error("the value's shape is {0}")]
    Shape(Box<Shape>),
    /// Values of this type are not stored so.
    #[error("values of {0} are not stored so")]
    DType(DType),
    /// The format knows no such encoding, or no tensors of so many axes.
    #[error("the format knows no such tensors")]
    Format,
    /// Another is called so.
    #[error("another one is called so")]
    Twice,
}

impl Planned {
    /// The bytes that the values will take.
    pub(crate) fn size(&self, path: &Path) -> Result<usize> {
        let (block, size) = self.encoding.block();
        let cols = self.shape.cols();
        if !cols.is_multiple_of(block) {
            return Err(self.unwritable(path, Unwritable::Columns { cols, block }));
        }
        Ok((self.shape.count() / block).saturating_mul(size))
    }

    /// The value, which is on the processor, as it is stored.
    pub(crate) fn encode<'a>(&self, path: &Path, value: &'a Tensor) -> Result<Cow<'a, [u8]>> {
        let refused = |why| Err(self.unwritable(path, why));
        if value.shape() != self.shape {
            return refused(Unwritable::Shape(Box::new(value.shape())));
        }
        if Encoding::of(value.dtype()) == self.encoding {
            return Ok(Cow::Borrowed(value.as_bytes()?));
        }
        let encoder = blocks::encoder(self.encoding).filter(|_| value.dtype() == DType::F32);
        let Some(encoder) = encoder else {
            return refused(Unwritable::DType(value.dtype()));
        };
        match blocks::encode(self.encoding, encoder, value.as_slice()?) {
            Some(bytes) => Ok(Cow::Owned(bytes)),
            None => refused(Unwritable::Value),
        }
    }

    pub(crate) fn unwritable(&self, path: &Path, source: Unwritable) -> Error {
        Error::Unwritable {
            path: path.to_owned(),
            name: self.name.clone(),
            shape: Box::new(self.shape),
            encoding: self.encoding,
            source,
        }
    }
}
