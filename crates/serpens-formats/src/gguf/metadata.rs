//! Metadata: typed values by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Fault;
use super::value::{Kind, Value};
use crate::{Error, Result};

/// The key of the alignment, and its value where there is none.
const ALIGNMENT: (&str, u32) = ("general.alignment", 32);
/// The largest alignment: no file is filled up by more, whatever it says.
const MOST_ALIGNED: u32 = 1 << 16;

/// What a GGUF file says of its model and tokenizer, by key.
///
/// ```
/// use serpens_formats::gguf::Metadata;
///
/// # fn main() -> serpens_formats::Result<()> {
/// let mut metadata = Metadata::default();
/// metadata.set("general.architecture", "mamba".to_owned());
/// metadata.set("mamba.block_count", 24_u32);
/// metadata.set("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()]);
/// assert_eq!(*metadata.get::<u32>("mamba.block_count")?, 24);
/// assert_eq!(metadata.get::<Vec<String>>("tokenizer.ggml.tokens")?.len(), 2);
/// assert_eq!(metadata.find::<bool>("mamba.ssm.dt_b_c_rms")?, None);
/// assert!(metadata.get::<f32>("mamba.block_count").is_err()); // it is of another type
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The file, if it was read from one.
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Metadata`] where there is none, or one of another type.
    pub fn get<T: Kind>(&self, key: &str) -> Result<&T> {
        let value = self.values.get(key);
        value.and_then(T::of).ok_or_else(|| Error::Metadata {
            path: self.path.clone(),
            key: key.to_owned(),
            wanted: T::NAME,
            found: value.map(Value::name),
        })
    }

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// [`Error::Metadata`] where it is of another type.
    pub fn find<T: Kind>(&self, key: &str) -> Result<Option<&T>> {
        let found = self.values.contains_key(key);
        found.then(|| self.get(key)).transpose()
    }

    /// What the places of tensors are multiples of, in a file.
    pub(super) fn alignment(&self, path: &Path) -> Result<u64> {
        match *self.find(ALIGNMENT.0)?.unwrap_or(&ALIGNMENT.1) {
            known if known.is_power_of_two() && known <= MOST_ALIGNED => Ok(known.into()),
            other => Err(Error::Gguf {
                path: path.to_owned(),
                source: Fault::Alignment(other),
            }),
        }
    }

    /// Sets the value of a key.
    pub fn set(&mut self, key: &str, value: impl Kind) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }
}
