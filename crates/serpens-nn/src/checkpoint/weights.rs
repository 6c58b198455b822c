//! Parameters in safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde::Deserialize;
use serpens_core::{DType, Device, Shape, Tensor, bf16};

use super::{WEIGHTS_FILE, write_atomically};
use crate::{Error, MambaLm, Module, Result};

/// The name of the index of a model in several files.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The head, absent from checkpoints where it is the embedding's table, though some carry a copy.
const HEAD: &str = "lm_head.weight";

/// A safetensors file mapped into memory.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
}

impl TensorFile {
    /// Maps the file.
    pub fn open(path: &Path) -> Result<Self> {
        let map = File::open(path).and_then(|file| {
            // SAFETY: the bytes are checked before use; a file that another program cuts off meanwhile ends this one, as for
            // every program that maps files.
            unsafe { Mmap::map(&file) }
        });
        Ok(Self {
            path: path.to_owned(),
            map: map.map_err(|source| Error::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })?,
        })
    }

    /// The tensors in it.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the header is broken, or the file shorter than it says.
    pub fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(|e| self.malformed(e.to_string()))
    }

    fn malformed(&self, reason: String) -> Error {
        Error::Malformed {
            path: self.path.clone(),
            kind: "safetensors file (truncated or not one)",
            reason,
        }
    }

    /// One tensor, in f32 where it is of a floating-point type and in u32 where it is of that.
    pub fn tensor(&self, name: &str, view: &TensorView<'_>, device: Device) -> Result<Tensor> {
        if view.shape().len() > serpens_core::MAX_RANK {
            return Err(self.malformed(format!("tensor {name} has too many axes")));
        }
        let shape = Shape::new(view.shape());
        let bytes = view.data();
        let halves = || {
            bytes
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]))
        };
        let words = || {
            bytes
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let floats: Vec<f32> = match view.dtype() {
            Dtype::F32 => words().map(f32::from_bits).collect(),
            Dtype::BF16 => halves().map(|b| bf16::from_bits(b).to_f32()).collect(),
            Dtype::F16 => halves().map(|b| half::f16::from_bits(b).to_f32()).collect(),
            Dtype::U32 => {
                let words: Vec<u32> = words().collect();
                return Ok(Tensor::from_slice(shape, &words, device)?);
            }
            other => {
                let reason = format!("tensor {name} is {other:?}; f32, bf16 and f16 are known");
                return Err(self.malformed(reason));
            }
        };
        Ok(Tensor::from_slice(shape, &floats, device)?)
    }
}

/// Reads every tensor of a safetensors file.
pub fn read_tensors(path: &Path, device: Device) -> Result<BTreeMap<String, Tensor>> {
    let file = TensorFile::open(path)?;
    let tensors = file.tensors()?;
    tensors
        .iter()
        .map(|(name, view)| Ok((name.to_owned(), file.tensor(name, &view, device)?)))
        .collect()
}

/// A tensor on the processor, as the writer of safetensors files takes it.
struct Stored<'a> {
    tensor: &'a Tensor,
    bytes: &'a [u8],
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.dtype() {
            DType::BF16 => Dtype::BF16,
            DType::U32 => Dtype::U32,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes tensors to a safetensors file, which appears complete or not at all.
pub fn write_tensors(path: &Path, tensors: &[(String, &Tensor)]) -> Result<()> {
    let on_cpu = tensors
        .iter()
        .map(|(_, tensor)| tensor.to(Device::Cpu))
        .collect::<serpens_core::Result<Vec<_>>>()?;
    let views = tensors
        .iter()
        .zip(&on_cpu)
        .map(|((name, _), tensor)| {
            let bytes = tensor.as_bytes()?;
            Ok((name.as_str(), Stored { tensor, bytes }))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|e| Error::Malformed {
        path: path.to_owned(),
        kind: "safetensors file",
        reason: e.to_string(),
    })?;
    write_atomically(path, |file| file.write_all(&bytes))
}

pub(super) fn save_parameters(model: &MambaLm, path: &Path) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    model.visit("", &mut |name, param| {
        tensors.push((name.to_owned(), param.value().clone()));
    });
    let tensors: Vec<(String, &Tensor)> = tensors.iter().map(|(n, t)| (n.clone(), t)).collect();
    write_tensors(path, &tensors)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, PathBuf>,
}

/// The files that a model's weights are in.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(INDEX_FILE);
    if dir.join(WEIGHTS_FILE).exists() || !index.exists() {
        return Ok(vec![dir.join(WEIGHTS_FILE)]);
    }
    let text = fs::read_to_string(&index).map_err(|source| Error::Io {
        action: "read",
        path: index.clone(),
        source,
    })?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| Error::Malformed {
        path: index.clone(),
        kind: "index of weights",
        reason: e.to_string(),
    })?;
    let files: BTreeSet<PathBuf> = parsed.weight_map.into_values().collect();
    Ok(files.into_iter().map(|file| dir.join(file)).collect())
}

/// Fills the model's parameters from the files in `dir`.
pub(super) fn load_parameters(model: &mut MambaLm, dir: &Path, tied: bool) -> Result<()> {
    let mut wanted: BTreeMap<String, Shape> = BTreeMap::new();
    model.visit("", &mut |name, param| {
        wanted.insert(name.to_owned(), param.value().shape());
    });
    let mut found: BTreeMap<String, Tensor> = BTreeMap::new();
    let files = weight_files(dir)?;
    for path in &files {
        let file = TensorFile::open(path)?;
        for (name, view) in file.tensors()?.iter() {
            match wanted.get(name) {
                None if tied && name == HEAD => continue,
                None => {
                    return Err(Error::SurplusParameter {
                        path: path.clone(),
                        name: name.to_owned(),
                    });
                }
                Some(expected) if expected[..] != *view.shape() => {
                    return Err(Error::ParameterShape {
                        path: path.clone(),
                        name: name.to_owned(),
                        expected: Box::new(*expected),
                        got: Box::new(Shape::new(
                            &view.shape()[..view.shape().len().min(serpens_core::MAX_RANK)],
                        )),
                    });
                }
                Some(_) => {}
            }
            let value = file.tensor(name, &view, Device::Cpu)?;
            found.insert(name.to_owned(), value);
        }
    }
    if let Some(name) = wanted.keys().find(|name| !found.contains_key(*name)) {
        return Err(Error::MissingParameter {
            path: files[0].clone(),
            name: name.clone(),
        });
    }
    model.visit_mut("", &mut |name, param| {
        if let Some(value) = found.remove(name) {
            *param.value_mut() = value;
        }
    });
    Ok(())
}
