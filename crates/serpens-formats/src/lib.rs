//! Tensors in files, and the settings beside them. Knows no model: only names, shapes and bytes.
//!
//! A format says which tensors a file holds, where, and in which [`Encoding`]; [`TensorFile`] brings one at a time
//! straight to where it stays. [`safetensors`] and [`gguf`] are also written tensor by tensor, as [`Planned`], so that
//! neither way holds the whole twice. [`pytorch`] is read alone.
//!
//! Files may be a stranger's: what is no regular file, headers of more than 64 MiB, names that lead out of a folder,
//! tensors that lie outside the file or in one another, and two of one name are refused; nothing that a file holds is
//! run. Safetensors files that are written here carry a digest of each tensor, which is verified when the tensor is
//! read; others' files have none, and are read all the same.
//!
//! ```
//! use serpens_core::{Device, Tensor};
//! use serpens_formats::safetensors::{open, write_tensors};
//! use serpens_formats::{Error, Fault, Verify};
//!
//! # fn main() -> serpens_formats::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder for the example");
//! # let path = folder.path().join("weights.safetensors");
//! let weight = Tensor::from_slice([2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], Device::Cpu)?;
//! write_tensors(&path, &[("layer.weight", &weight)])?;
//!
//! let file = open(&path, Verify::Digests)?; // reads names and shapes alone
//! let shapes: Vec<String> = file.tensors().map(|(name, shape)| format!("{name} {shape}")).collect();
//! assert_eq!(shapes, ["layer.weight (2, 3)"]);
//! let read = file.tensor("layer.weight", Device::Cpu)?;
//! assert_eq!(read.as_slice::<f32>()?, weight.as_slice::<f32>()?);
//!
//! // The last bit of the file, damaged.
//! let mut bytes = std::fs::read(&path).expect("just written");
//! *bytes.last_mut().expect("not empty") ^= 1;
//! std::fs::write(&path, bytes).expect("written");
//! let damaged = open(&path, Verify::Digests)?.tensor("layer.weight", Device::Cpu);
//! assert!(matches!(damaged, Err(Error::File { source: Fault::Digest(..), .. })));
//! # Ok(())
//! # }
//! ```

mod digest;
mod encoding;
mod error;
pub mod gguf;
pub mod json;
mod planned;
pub mod pytorch;
pub mod safetensors;
mod shards;
mod tensor_file;
mod values;

pub use digest::digest;
pub use encoding::Encoding;
pub use error::{Error, Fault, Result};
pub use planned::Planned;
pub use shards::shards;
pub use tensor_file::{TensorFile, Verify};
