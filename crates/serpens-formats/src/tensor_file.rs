//! Tensors of an open file, whatever its format: a format reads what is where, and this brings a tensor at a time to a
//! device.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serpens_core::files::FileError;
use serpens_core::{Device, Element, Shape, Tensor};

use crate::digest::{self, CHUNK};
use crate::{Encoding, Error, Result, blocks};

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

/// What a file's header says of a tensor. Whoever makes one has checked that its bytes lie in the file, and that it
/// has no more values than those bytes.
pub(crate) struct Entry {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
    /// The place in the file of its first value. Values are little-endian.
    pub(crate) start: u64,
    /// How far apart the values along each axis are, in values, where they do not lie row by row.
    pub(crate) strides: Option<Box<[usize]>>,
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

    /// How a tensor's values are stored, if there is one of this name.
    pub fn encoding(&self, name: &str) -> Option<Encoding> {
        Some(self.tensors.get(name)?.encoding)
    }

    /// One tensor, in f32 where its values are floating-point numbers, and in u32 where they are of that type. The file
    /// is read by all threads, and as much memory taken as the result needs; a strided view (PyTorch's) takes what it
    /// spans once more meanwhile.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name, [`Error::Encoding`] for other types, [`Error::Core`] where the
    /// device has no room, [`Error::Io`], [`Error::Digest`] for damage.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        let (tensor, chunks) = match (entry.encoding, blocks::decoder(entry.encoding)) {
            (Encoding::U32, _) => self.read(entry, |bytes, values| {
                blocks::each(bytes, values, u32::from_le_bytes);
            })?,
            (_, Some(decode)) => self.read(entry, decode)?,
            (found, None) => {
                return Err(Error::Encoding {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    found,
                });
            }
        };
        if let Some(expected) = &entry.digest {
            let found = digest::of_tensor(name, entry.encoding, &entry.shape, &chunks);
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

    /// The values of a tensor, and the hashes of the chunks that they were read in, where there is a digest to verify.
    fn read<T: Element>(
        &self,
        entry: &Entry,
        decode: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<(Tensor, Vec<u64>)> {
        let mut tensor = Tensor::empty(entry.shape, T::DTYPE, Device::Cpu)?;
        let values = tensor.make_mut::<T>()?;
        let hashes = match &entry.strides {
            Some(strides) if !values.is_empty() => {
                let axes = entry.shape.iter().zip(strides);
                let last: usize = axes.map(|(dim, stride)| (dim - 1) * stride).sum();
                let mut spanned = vec![T::zeroed(); last + 1];
                let hashes = self.fill(entry, &mut spanned, decode)?;
                gather(&spanned, entry.shape, strides, values);
                hashes
            }
            _ => self.fill(entry, values, decode)?,
        };
        Ok((tensor, hashes))
    }

    /// Reads values that lie one behind the other. All threads read, and nothing of the file stays in the program's
    /// memory.
    fn fill<T: Element>(
        &self,
        entry: &Entry,
        values: &mut [T],
        decode: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<Vec<u64>> {
        let (block, size) = entry.encoding.block();
        let per_chunk = CHUNK / size * block;
        let mut hashes = vec![0; values.len().div_ceil(per_chunk)];
        let tasks = values
            .par_chunks_mut(per_chunk)
            .zip(&mut hashes)
            .enumerate();
        let read = tasks.try_for_each_init(Vec::new, |bytes, (i, (values, hash))| {
            bytes.resize(values.len() / block * size, 0);
            let before = i as u64 * (CHUNK / size * size) as u64;
            read_at(&self.file, bytes, entry.start + before)?;
            if entry.digest.is_some() {
                *hash = digest::of_chunk(bytes);
            }
            decode(bytes, values);
            Ok(())
        });
        read.map_err(FileError::of("read", &self.path))?;
        Ok(hashes)
    }
}

/// Brings strided values into rows.
fn gather<T: Element>(from: &[T], shape: Shape, strides: &[usize], to: &mut [T]) {
    let step = strides.last().copied().unwrap_or(0);
    let rows = to.par_chunks_mut(shape.cols()).enumerate();
    rows.for_each(|(mut row, values)| {
        let mut start = 0;
        for (dim, stride) in shape.iter().zip(strides).rev().skip(1) {
            start += row % dim * stride;
            row /= dim;
        }
        for (i, value) in values.iter_mut().enumerate() {
            *value = from[start + i * step];
        }
    });
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
