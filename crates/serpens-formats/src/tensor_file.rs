//! Tensors of an open file, whatever its format: a format reads what is where, and this brings a tensor at a time to a
//! device.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serpens_core::files::{self, Accept, FileError};
use serpens_core::{Device, Element, Shape, Tensor, bf16};
use serpens_ops::linear::Held;
use serpens_ops::quantized_linear::Packed;

use crate::digest::{self, CHUNK};
use crate::{Encoding, Error, Fault, Result, values};

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
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Entry>,
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
    /// Opens a file, whose header `read` reads.
    pub(crate) fn open(
        path: &Path,
        read: impl FnOnce(&File) -> Result<BTreeMap<String, Entry>, Fault>,
    ) -> Result<Self> {
        let file = files::open(path, Accept::Files)?;
        let tensors = read(&file).map_err(Error::at(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            tensors,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of the tensors in it, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Shape)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, entry)| (name.as_str(), entry.shape))
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
    /// [`Fault::Missing`] for an unknown name, [`Fault::Encoding`] for other types, [`Error::Core`] where the device
    /// has no room, [`Error::Io`], [`Fault::Digest`] for damage.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let tensor = match (entry.encoding, values::decoder(entry.encoding)) {
            (Encoding::U32, _) => self.read(name, entry, |bytes, values| {
                values::decode_each(bytes, values, u32::from_le_bytes);
            })?,
            (_, Some(decode)) => self.read(name, entry, decode)?,
            (found, None) => {
                let fault = Fault::Encoding(name.to_owned(), found);
                return Err(Error::at(&self.path)(fault));
            }
        };
        Ok(tensor.to(device)?)
    }

    /// One matrix as it is stored, where that can be multiplied: in bf16 or in blocks; otherwise as
    /// [`TensorFile::tensor`] gives it. One in blocks takes its bytes once more meanwhile.
    ///
    /// # Errors
    /// Those of [`TensorFile::tensor`].
    pub fn matrix(&self, name: &str, device: Device) -> Result<Held> {
        let entry = self.entry(name)?;
        Ok(match entry.encoding {
            Encoding::BF16 => {
                let tensor = self.read::<bf16>(name, entry, |bytes, values| {
                    values::decode_each(bytes, values, bf16::from_le_bytes);
                })?;
                Held::Plain(tensor.to(device)?)
            }
            Encoding::Blocks(kind) => {
                let mut bytes = vec![0; entry.encoding.bytes(entry.shape)];
                self.read_chunks(
                    name,
                    entry,
                    &mut bytes,
                    kind.bytes(),
                    |from, to: &mut [u8]| {
                        to.copy_from_slice(from);
                    },
                )?;
                let sizes = [entry.shape.rows(), entry.shape.cols()];
                Held::Packed(Packed::new(kind, sizes, &bytes, device)?)
            }
            _ => Held::Plain(self.tensor(name, device)?),
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.tensors.get(name);
        entry.ok_or_else(|| Error::at(&self.path)(Fault::Missing(name.to_owned())))
    }

    /// The values of a tensor.
    fn read<T: Element>(
        &self,
        name: &str,
        entry: &Entry,
        decode: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<Tensor> {
        let mut tensor = Tensor::empty(entry.shape, T::DTYPE, Device::Cpu)?;
        let rows = tensor.make_mut::<T>()?;
        let strides = entry.strides.as_deref().filter(|_| !rows.is_empty());
        // What a strided view spans is read whole, and then brought into rows.
        let spanned = strides.map(|strides| {
            let axes = entry.shape.iter().zip(strides);
            let last: usize = axes.map(|(dim, stride)| (dim - 1) * stride).sum();
            vec![T::zeroed(); last + 1]
        });
        let mut spanned = spanned.unwrap_or_default();
        let values = if strides.is_some() {
            &mut spanned
        } else {
            &mut *rows
        };
        let (block, _) = entry.encoding.block();
        self.read_chunks(name, entry, values, block, decode)?;
        if let Some(strides) = strides {
            gather(&spanned, entry.shape, strides, rows);
        }
        Ok(tensor)
    }

    /// Fills `values`, of which there are `each` to a block, and verifies the digest, where there is one. All threads
    /// read, and nothing of the file stays in the program's memory.
    fn read_chunks<T: Send>(
        &self,
        name: &str,
        entry: &Entry,
        values: &mut [T],
        each: usize,
        decode: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<()> {
        let (_, size) = entry.encoding.block();
        let blocks = CHUNK / size;
        let mut hashes = vec![0; values.len().div_ceil(blocks * each)];
        let chunks = values.par_chunks_mut(blocks * each).zip(&mut hashes);
        let tasks = chunks.enumerate();
        let read = tasks.try_for_each_init(Vec::new, |bytes, (i, (values, hash))| {
            bytes.resize(values.len() / each * size, 0);
            read_at(&self.file, bytes, entry.start + (i * blocks * size) as u64)?;
            if entry.digest.is_some() {
                *hash = digest::of_chunk(bytes);
            }
            decode(bytes, values);
            Ok(())
        });
        read.map_err(FileError::of("read", &self.path))?;
        let Some(said) = &entry.digest else {
            return Ok(());
        };
        let found = digest::of_tensor(name, entry.encoding, &entry.shape, &hashes);
        let fault = || Fault::Digest(name.to_owned(), found.clone(), said.clone());
        (found == *said)
            .then_some(())
            .ok_or_else(|| Error::at(&self.path)(fault()))
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
fn read_at(file: &File, bytes: &mut [u8], from: u64) -> io::Result<()> {
    // Fewer are read only where the file ends.
    let read = std::os::windows::fs::FileExt::seek_read(file, bytes, from)?;
    let whole = (read == bytes.len()).then_some(());
    whole.ok_or(io::ErrorKind::UnexpectedEof.into())
}
