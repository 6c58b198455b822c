//! Writing: the header, then tensor by tensor.

use std::borrow::Borrow;
use std::io;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serpens_core::files::{Durability, write_atomically};
use serpens_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Why a file was not written, before its path is known.
enum Failed {
    Io(io::Error),
    Core(serpens_core::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Io(error)
    }
}

/// Writes tensors to a safetensors file, which appears complete or not at all. They are brought from their devices one
/// at a time, as they are written.
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
    let header = header(&sorted).map_err(Error::safetensors(path))?;
    let written = write_atomically(path, Durability::OnDisk, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor) in &sorted {
            let here = tensor.to(Device::Cpu).map_err(Failed::Core)?;
            file.write_all(here.as_bytes().map_err(Failed::Core)?)?;
        }
        Ok(())
    });
    written.map_err(|failed| match failed {
        Failed::Io(source) => Error::io("write", path)(source),
        Failed::Core(error) => error.into(),
    })
}

/// The header of these tensors in this order, filled up to whole words.
fn header(tensors: &[(&str, &Tensor)]) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let from = end;
        end += tensor.len() * tensor.dtype().size();
        let info = TensorInfo {
            dtype: stored(tensor.dtype()),
            shape: tensor.dims().to_vec(),
            data_offsets: (from, end),
        };
        ((*name).to_owned(), info)
    });
    let metadata = Metadata::new(None, infos.collect())?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok(header)
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
