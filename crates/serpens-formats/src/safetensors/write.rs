//! Writing: the header, tensor by tensor, and then the header again, with their digests.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use serpens_core::files::{FileError, write_atomically};
use serpens_core::{DType, Device, Tensor};

use super::header::Header;
use crate::{Error, Result, digest};

/// Writes tensors to a safetensors file, which appears complete or not at all. They are brought from their devices one
/// at a time, as they are written. The file says `{"format": "pt"}` of itself, and has a digest of each tensor.
///
/// # Errors
/// [`Error::Io`]; [`Error::Core`] where a tensor cannot be brought to the processor.
pub fn write_tensors<N: AsRef<str>, T: Borrow<Tensor>>(
    path: &Path,
    tensors: &[(N, T)],
) -> Result<()> {
    let mut sorted: Vec<(&str, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_ref(), tensor.borrow()))
        .collect();
    // As the format's own library: the widest types first, so that all are aligned, and by name.
    sorted.sort_by(|(name, tensor), (other_name, other)| {
        let order = stored(other.dtype()).cmp(&stored(tensor.dtype()));
        order.then(name.cmp(other_name))
    });
    let mut header = Header::new(infos(&sorted)).map_err(Error::safetensors(path))?;
    let mut digests = BTreeMap::new();
    let failed = FileError::of("write", path);
    write_atomically(path, |file| {
        file.write_all(&header.to_bytes()).map_err(&failed)?;
        for (name, tensor) in sorted {
            let here = tensor.to(Device::Cpu)?;
            let bytes = here.as_bytes()?;
            file.write_all(bytes).map_err(&failed)?;
            let chunks = digest::of_chunks(bytes);
            let digest = digest::of_tensor(name, stored(tensor.dtype()), &tensor.shape(), &chunks);
            digests.insert(name, digest);
        }
        header.set_digests(&digests.into_values().collect::<Vec<_>>());
        let again = file.rewind();
        let written = again.and_then(|()| file.write_all(&header.to_bytes()));
        Ok(written.map_err(&failed)?)
    })
}

/// What the header says of these tensors in this order.
fn infos(tensors: &[(&str, &Tensor)]) -> BTreeMap<String, TensorInfo> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let from = end;
        end += tensor.len() * tensor.dtype().size();
        let info = TensorInfo {
            dtype: stored(tensor.dtype()),
            shape: tensor.shape().to_vec(),
            data_offsets: (from, end),
        };
        ((*name).to_owned(), info)
    });
    infos.collect()
}

/// The format's name of a type.
fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::BF16 => Dtype::BF16,
        DType::U32 => Dtype::U32,
        // The only other there is; the header's check refuses types of another size.
        _ => Dtype::F32,
    }
}
