//! Reading: what the header says is where.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::files::{self, Accept};
use serpens_core::{Device, MAX_RANK, Shape, Tensor};

use super::header::Header;
use crate::tensor_file::Entry;
use crate::{Encoding, Error, Result, TensorFile, Verify};

/// Opens a safetensors file and reads its header.
///
/// # Errors
/// [`Error::Io`]; [`Error::Safetensors`] where the header is broken, or the file shorter than it says; [`Error::Rank`]
/// where a tensor has more axes than any here.
pub fn open(path: &Path, verify: Verify) -> Result<TensorFile> {
    let file = files::open(path, Accept::Files)?;
    let (header, data) = Header::read(&file).map_err(Error::safetensors(path))?;
    let mut digests = header.digests().filter(|_| verify == Verify::Digests);
    let (path, mut tensors) = (path.to_owned(), BTreeMap::new());
    for (name, info) in &header.tensors {
        let (name, found) = (name.clone(), info.shape.len());
        if found > MAX_RANK {
            return Err(Error::Rank { path, name, found });
        }
        let (from, _) = info.data_offsets;
        // One that is missing among others is damage, as one that differs is.
        let digest = digests.as_mut().map(|all| all.next().unwrap_or_default());
        let dtype = info.dtype.to_string();
        let encoding = Encoding::named(&dtype);
        let other = ["F8_E4M3", "F8_E5M2", "C64"]
            .into_iter()
            .find(|known| *known == dtype);
        let entry = Entry {
            encoding: encoding.unwrap_or(Encoding::Other(other.unwrap_or("another type"))),
            shape: Shape::new(&info.shape),
            start: (data + from) as u64,
            strides: None,
            digest: digest.map(str::to_owned),
        };
        tensors.insert(name, entry);
    }
    Ok(TensorFile {
        path,
        file,
        tensors,
    })
}

/// Reads every tensor of a safetensors file.
pub fn read_tensors(
    path: &Path,
    device: Device,
    verify: Verify,
) -> Result<BTreeMap<String, Tensor>> {
    let file = open(path, verify)?;
    file.tensors()
        .map(|(name, _)| Ok((name.to_owned(), file.tensor(name, device)?)))
        .collect()
}
