//! Reading: an open file, of which a tensor at a time is brought to a device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use serpens_core::{Device, Element, MAX_RANK, Shape, Tensor, bf16};

use crate::{Error, Result};

/// Values that a thread reads at once: they stay in its cache until they are converted.
const READ_AT_ONCE: usize = 1 << 16;

/// An open safetensors file.
pub struct TensorFile {
    path: PathBuf,
    file: File,
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
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Safetensors`] where the header is broken, or the file shorter than it says; [`Error::Rank`] where a
    /// tensor has more axes than any here.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        // Mapped to read the header alone, whose check wants to know how long the file is.
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
            file,
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
    /// [`Error::MissingTensor`] for an unknown name, [`Error::DType`] for other types, [`Error::Core`] where the device has no room,
    /// [`Error::Io`].
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        let tensor = match entry.dtype {
            Dtype::F32 => self.read(entry, |value: f32| value)?,
            Dtype::U32 => self.read(entry, |value: u32| value)?,
            Dtype::BF16 => self.read(entry, bf16::to_f32)?,
            Dtype::F16 => self.read(entry, half::f16::to_f32)?,
            found => {
                return Err(Error::DType {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    found,
                });
            }
        };
        Ok(tensor.to(device)?)
    }

    /// The values of a tensor, each converted. All threads read, and nothing of the file stays in the program's memory.
    fn read<T: Pod, U: Element>(
        &self,
        entry: &Entry,
        convert: impl Fn(T) -> U + Sync,
    ) -> Result<Tensor> {
        let mut tensor = Tensor::empty(entry.shape, U::DTYPE, Device::Cpu)?;
        let values = tensor.make_mut::<U>()?;
        let tasks = values.par_chunks_mut(READ_AT_ONCE).enumerate();
        let read = tasks.try_for_each_init(Vec::new, |stored: &mut Vec<T>, (i, values)| {
            stored.resize(values.len(), T::zeroed());
            let from = entry.bytes.start + i * READ_AT_ONCE * size_of::<T>();
            read_at(&self.file, bytemuck::cast_slice_mut(stored), from as u64)?;
            for (value, &stored) in values.iter_mut().zip(stored.iter()) {
                *value = convert(stored);
            }
            Ok(())
        });
        read.map_err(Error::io("read", &self.path))?;
        Ok(tensor)
    }
}

/// Fills `bytes` from this place of the file on.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], from: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, from)
}

/// Fills `bytes` from this place of the file on.
#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut from: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, from)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        from += read as u64;
    }
    Ok(())
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
