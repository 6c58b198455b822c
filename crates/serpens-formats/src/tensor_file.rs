//! Tensors of an open file, whatever its format: a format reads what is where, and this brings a tensor at a time to a
//! device.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serpens_core::files::FileError;
use serpens_core::{Device, Element, Shape, Tensor, bf16};

use crate::digest::{self, CHUNK};
use crate::{Error, Result};

/// What is verified of the tensors that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Their digests, where the file has such.
    #[default]
    Digests,
    /// Nothing: the way around, for a file that is damaged, or was changed on purpose.
    Nothing,
}

/// An open file of tensors.
pub struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) tensors: BTreeMap<String, Entry>,
}

/// What a file's header says of a tensor.
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    /// The place in the file of its bytes, which are little-endian and row by row.
    pub(crate) bytes: Range<usize>,
    /// The digest to verify, if there is one.
    pub(crate) digest: Option<String>,
}

impl TensorFile {
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
    /// [`Error::MissingTensor`] for an unknown name, [`Error::DType`] for other types, [`Error::Core`] where the device
    /// has no room, [`Error::Io`], [`Error::Digest`] for damage.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        let (tensor, chunks) = match entry.dtype {
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
        if let Some(expected) = &entry.digest {
            let found = digest::of_tensor(name, entry.dtype, &entry.shape, &chunks);
            if found != *expected {
                return Err(Error::Digest {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    expected: expected.clone(),
                    found,
                });
            }
        }
        Ok(tensor.to(device)?)
    }

    /// The values of a tensor, each converted, and the hashes of the chunks that they were read in, where there is a
    /// digest to verify. All threads read, and nothing of the file stays in the program's memory.
    fn read<T: Pod, U: Element>(
        &self,
        entry: &Entry,
        convert: impl Fn(T) -> U + Sync,
    ) -> Result<(Tensor, Vec<u64>)> {
        let mut tensor = Tensor::empty(entry.shape, U::DTYPE, Device::Cpu)?;
        let mut hashes = vec![0; entry.bytes.len().div_ceil(CHUNK)];
        let values = tensor.make_mut::<U>()?;
        let values = values.par_chunks_mut(CHUNK / size_of::<T>());
        let tasks = values.zip(&mut hashes).enumerate();
        let read = tasks.try_for_each_init(Vec::new, |stored: &mut Vec<T>, (i, (values, hash))| {
            stored.resize(values.len(), T::zeroed());
            let bytes = bytemuck::cast_slice_mut(stored);
            read_at(&self.file, bytes, (entry.bytes.start + i * CHUNK) as u64)?;
            if entry.digest.is_some() {
                *hash = digest::of_chunk(bytes);
            }
            for (value, &stored) in values.iter_mut().zip(stored.iter()) {
                *value = convert(stored);
            }
            Ok(())
        });
        read.map_err(FileError::of("read", &self.path))?;
        Ok((tensor, hashes))
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
