//! Reading: what the header says is where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;
use serpens_core::files::{self, Accept};
use serpens_core::{Device, MAX_RANK, Shape, Tensor};

use super::header::Header;
use crate::tensor_file::Entry;
use crate::{Encoding, Error, Result, TensorFile, Verify, json};

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

/// Opens the file, or where it is missing the several that an index beside it (`<path>.index.json`) says its tensors
/// are in.
///
/// # Errors
/// Those of [`open`]; [`Error::Json`], [`Error::Index`] where the index names no file, or one outside its folder.
pub fn open_all(path: &Path, verify: Verify) -> Result<Vec<TensorFile>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    let index = Path::new(&index);
    if path.exists() || !index.exists() {
        return Ok(vec![open(path, verify)?]);
    }
    let Index { weight_map } = json::read(index, "index of weights")?;
    let files: BTreeSet<String> = weight_map.into_values().collect();
    let outside = files.iter().find(|file| !lies_inside(file)).cloned();
    if files.is_empty() || outside.is_some() {
        return Err(Error::Index {
            path: index.to_owned(),
            outside,
        });
    }
    files
        .iter()
        .map(|file| open(&index.with_file_name(file), verify))
        .collect()
}

/// Whether a name cannot lead out of a folder.
fn lies_inside(name: &str) -> bool {
    let mut names = Path::new(name).components();
    !name.is_empty() && names.all(|name| matches!(name, Component::Normal(_)))
}
