//! Reading: what the header says is where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::SafeTensors;
use serde::Deserialize;
use serpens_core::{Device, Tensor};

use crate::{Error, Result, TensorFile, json};

/// Opens a safetensors file and reads its header.
///
/// # Errors
/// [`Error::Io`]; [`Error::Safetensors`] where the header is broken, or the file shorter than it says; [`Error::Rank`]
/// where a tensor has more axes than any here.
pub fn open(path: &Path) -> Result<TensorFile> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // Mapped to read the header alone, whose check wants to know how long the file is.
    // SAFETY: the bytes are checked before use; a file that another program cuts off meanwhile ends this one, as for
    // every program that maps files.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(Error::safetensors(path))?;
    let data = size_of::<u64>() + header;
    let mut opened = TensorFile::new(path, file);
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        opened.enter(name, info.dtype, &info.shape, data + from..data + to)?;
    }
    Ok(opened)
}

/// Reads every tensor of a safetensors file.
pub fn read_tensors(path: &Path, device: Device) -> Result<BTreeMap<String, Tensor>> {
    let file = open(path)?;
    file.tensors()
        .map(|(name, _)| Ok((name.to_owned(), file.tensor(name, device)?)))
        .collect()
}

/// Opens the file, or where it is missing the several that an index beside it (`<path>.index.json`) says its tensors
/// are in.
pub fn open_all(path: &Path) -> Result<Vec<TensorFile>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, PathBuf>,
    }

    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    let index = Path::new(&index);
    if path.exists() || !index.exists() {
        return Ok(vec![open(path)?]);
    }
    let Index { weight_map } = json::read(index, "index of weights")?;
    let files: BTreeSet<PathBuf> = weight_map.into_values().collect();
    files
        .iter()
        .map(|file| open(&index.with_file_name(file)))
        .collect()
}
