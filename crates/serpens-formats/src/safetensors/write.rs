//! Writing: the header, tensor by tensor, and then the header again, with their digests.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use serpens_core::files::{FileError, write_atomically};
use serpens_core::{Device, Tensor};

use super::header::Header;
use crate::{Encoding, Error, Planned, Result, Unwritable, digest};

/// Writes tensors to a safetensors file as they are. They are brought from their devices one at a time.
///
/// # Errors
/// Those of [`write()`].
pub fn write_tensors<N: AsRef<str>, T: Borrow<Tensor>>(
    path: &Path,
    tensors: &[(N, T)],
) -> Result<()> {
    let named = tensors
        .iter()
        .map(|(name, value)| (name.as_ref(), value.borrow()));
    let values: BTreeMap<&str, &Tensor> = named.clone().collect();
    let planned = named.map(|(name, value)| Planned {
        name: name.to_owned(),
        shape: value.shape(),
        encoding: Encoding::of(value.dtype()),
    });
    let planned: Vec<Planned> = planned.collect();
    write(path, &planned, |planned| {
        Ok(values[planned.name.as_str()].clone())
    })
}

/// Writes a safetensors file, which appears complete or not at all. `value` gives each planned tensor when it is its
/// turn, so that no more than one need be in memory. The file says `{"format": "pt"}` of itself, and has a digest of
/// each tensor.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unwritable`]; [`Error::Core`] where a tensor cannot be brought to the processor; those of
/// `value`.
pub fn write(
    path: &Path,
    planned: &[Planned],
    mut value: impl FnMut(&Planned) -> Result<Tensor>,
) -> Result<()> {
    let mut sorted = Vec::with_capacity(planned.len());
    for planned in planned {
        let Some(dtype) = dtype(planned.encoding) else {
            return Err(planned.unwritable(path, Unwritable::Format));
        };
        sorted.push((dtype, planned));
    }
    // As the format's own library: the widest types first, so that all are aligned, and by name.
    sorted.sort_by(|(a, one), (b, other)| (b, &one.name).cmp(&(a, &other.name)));
    let mut header = Header::new(infos(path, &sorted)?).map_err(Error::safetensors(path))?;
    let mut digests = BTreeMap::new();
    let failed = FileError::of("write", path);
    write_atomically(path, |file| {
        file.write_all(&header.to_bytes()).map_err(&failed)?;
        for (_, planned) in sorted {
            let here = value(planned)?.to(Device::Cpu)?;
            let bytes = planned.encode(path, &here)?;
            file.write_all(&bytes).map_err(&failed)?;
            let chunks = digest::of_chunks(&bytes);
            let digest =
                digest::of_tensor(&planned.name, planned.encoding, &planned.shape, &chunks);
            digests.insert(&planned.name, digest);
        }
        header.set_digests(&digests.into_values().collect::<Vec<_>>());
        let again = file.rewind();
        let written = again.and_then(|()| file.write_all(&header.to_bytes()));
        Ok(written.map_err(&failed)?)
    })
}

/// What the header says of these tensors in this order.
fn infos(path: &Path, tensors: &[(Dtype, &Planned)]) -> Result<BTreeMap<String, TensorInfo>> {
    let (mut end, mut infos) = (0_usize, BTreeMap::new());
    for &(dtype, planned) in tensors {
        let from = end;
        end = end.saturating_add(planned.size(path)?);
        let info = TensorInfo {
            dtype,
            shape: planned.shape.to_vec(),
            data_offsets: (from, end),
        };
        if infos.insert(planned.name.clone(), info).is_some() {
            return Err(planned.unwritable(path, Unwritable::Twice));
        }
    }
    Ok(infos)
}

/// The format's name of an encoding, of those that are written.
fn dtype(encoding: Encoding) -> Option<Dtype> {
    Some(match encoding {
        Encoding::F32 => Dtype::F32,
        Encoding::F16 => Dtype::F16,
        Encoding::BF16 => Dtype::BF16,
        Encoding::U32 => Dtype::U32,
        _ => return None,
    })
}
