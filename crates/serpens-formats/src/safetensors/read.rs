//! Reading: a mapped file, of which a tensor at a time is copied to a device.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use serpens_core::{DType, Device, MAX_RANK, Shape, Tensor, bf16};

use crate::{Error, Result};

/// A safetensors file mapped into memory.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Entry>,
}

/// What the header says of a tensor.
struct Entry {
    dtype: Dtype,
    shape: Shape,
    /// Its bytes' place in the file.
    bytes: Range<usize>,
}

impl TensorFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Safetensors`] where the header is broken, or the file shorter than it says; [`Error::Rank`] where a
    /// tensor has more axes than any here.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        // SAFETY: the bytes are checked before use; a file that another program cuts off meanwhile ends this one, as for
        // every program that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(Error::safetensors(path))?;
        let data = size_of::<u64>() + header;
        let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            if info.shape.len() > MAX_RANK {
                return Err(Error::Rank {
                    path: path.to_owned(),
                    name,
                    found: info.shape.len(),
                });
            }
            let (from, to) = info.data_offsets;
            let entry = Entry {
                dtype: info.dtype,
                shape: Shape::new(&info.shape),
                bytes: data + from..data + to,
            };
            Ok((name, entry))
        };
        let tensors = metadata.tensors().into_iter().map(entry);
        Ok(Self {
            path: path.to_owned(),
            tensors: tensors.collect::<Result<_>>()?,
            map,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of the tensors in it, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape))
    }

    /// One tensor, in f32 where it is of a floating-point type and in u32 where it is of that.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name, [`Error::DType`] for other types, [`Error::Core`] where the device has no room.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        let (shape, bytes) = (entry.shape, &self.map[entry.bytes.clone()]);
        Ok(match entry.dtype {
            Dtype::F32 => Tensor::from_slice(shape, &values::<f32>(bytes), device)?,
            Dtype::U32 => Tensor::from_slice(shape, &values::<u32>(bytes), device)?,
            Dtype::BF16 => widened(shape, bytes, bf16::to_f32, device)?,
            Dtype::F16 => widened(shape, bytes, half::f16::to_f32, device)?,
            found => {
                return Err(Error::DType {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    found,
                });
            }
        })
    }
}

/// The values in a file's bytes: in place where they are aligned, else a copy.
fn values<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

/// Values of a half-precision type as a tensor of f32.
fn widened<T: Pod>(
    shape: Shape,
    bytes: &[u8],
    widen: impl Fn(T) -> f32,
    device: Device,
) -> Result<Tensor> {
    let mut tensor = Tensor::empty(shape, DType::F32, Device::Cpu)?;
    let wide = tensor.make_mut::<f32>()?.iter_mut();
    wide.zip(values::<T>(bytes).iter())
        .for_each(|(to, &from)| *to = widen(from));
    Ok(tensor.to(device)?)
}

/// Reads every tensor of a safetensors file.
pub fn read_tensors(path: &Path, device: Device) -> Result<BTreeMap<String, Tensor>> {
    let file = TensorFile::open(path)?;
    file.tensors()
        .map(|(name, _)| Ok((name.to_owned(), file.tensor(name, device)?)))
        .collect()
}

/// Opens the file, or where it is missing the several that an index beside it (`<path>.index.json`) says its tensors are in.
pub fn open_all(path: &Path) -> Result<Vec<TensorFile>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, PathBuf>,
    }

    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    let index = Path::new(&index);
    if path.exists() || !index.exists() {
        return Ok(vec![TensorFile::open(path)?]);
    }
    let text = fs::read_to_string(index).map_err(Error::io("read", index))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|source| Error::Index {
        path: index.to_owned(),
        source,
    })?;
    let files: BTreeSet<PathBuf> = parsed.weight_map.into_values().collect();
    files
        .iter()
        .map(|file| TensorFile::open(&index.with_file_name(file)))
        .collect()
}
