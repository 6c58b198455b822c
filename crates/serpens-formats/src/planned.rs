//! Tensors that are going to be written: what a file says of them before their values are at hand.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use serpens_core::{DType, Shape, Tensor};

use crate::{Encoding, Error, Fault, Result, values};

/// What a file is to say of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its shape, which is also that of the value to come.
    pub shape: Shape,
    /// How its values are stored. A value in f32 can be in any of F32, F16, BF16 and blocks; others as they are.
    pub encoding: Encoding,
}

impl Planned {
    /// The value, which is on the processor, as it is stored.
    pub(crate) fn encode<'a>(&self, path: &Path, value: &'a Tensor) -> Result<Cow<'a, [u8]>> {
        let (shape, dtype, encoding) = (value.shape(), value.dtype(), self.encoding);
        if shape == self.shape && Encoding::of(dtype) == encoding {
            return Ok(Cow::Borrowed(value.as_bytes()?));
        }
        let name = self.name.clone();
        let encoder = values::encoder(encoding).filter(|_| dtype == DType::F32);
        let fault = match encoder {
            Some(encoder) if shape == self.shape => {
                match values::encode(encoding, encoder, value.as_slice()?) {
                    Some(bytes) => return Ok(Cow::Owned(bytes)),
                    None => Fault::Value(name, encoding),
                }
            }
            _ => Fault::Unplanned(name, Box::new(shape), dtype),
        };
        Err(Error::at(path)(fault))
    }
}

/// The places of values that lie one behind the other, each from a multiple of the alignment on.
pub(crate) fn places(planned: &[&Planned], alignment: usize) -> Result<Vec<Range<usize>>, Fault> {
    let (mut from, mut names) = (0_usize, BTreeSet::new());
    let place = |planned: &&Planned| {
        let size = planned.encoding.size(&planned.name, planned.shape)?;
        let place = from..from.saturating_add(size);
        let next = place.end.checked_next_multiple_of(alignment);
        from = next.unwrap_or(usize::MAX);
        if !names.insert(planned.name.clone()) {
            return Err(Fault::Twice(planned.name.clone()));
        }
        Ok(place)
    };
    planned.iter().map(place).collect()
}
