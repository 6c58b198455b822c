//! The header: the name, type, shape and place of every tensor, and what else the file says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serpens_core::files::MOST_WHOLE;

/// Bytes of the header's length, which precedes it.
const LENGTH: usize = size_of::<u64>();
/// The key under which the tensors' digests are, in the order of the tensors' names.
const DIGESTS: &str = "serpens.xxh3";

/// What a header says.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: BTreeMap<String, String>,
    #[serde(flatten, deserialize_with = "distinct")]
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// A header of these tensors, with room for their digests.
    pub(super) fn new(tensors: BTreeMap<String, TensorInfo>) -> Result<Self, SafeTensorError> {
        // The library of the models' home refuses files that do not say so.
        let metadata = BTreeMap::from([("format".into(), "pt".into())]);
        let mut header = Self { metadata, tensors };
        header.set_digests(&vec!["0".repeat(16); header.tensors.len()]);
        header.data_len()?;
        Ok(header)
    }

    /// Reads the header of a file, and gives also where the tensors' bytes begin.
    pub(super) fn read(mut file: &File) -> Result<(Self, usize), SafeTensorError> {
        let mut length = [0; LENGTH];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MOST_WHOLE {
            return Err(SafeTensorError::HeaderTooLarge);
        }
        let mut text = Vec::new();
        if file.take(length).read_to_end(&mut text)? as u64 != length {
            return Err(SafeTensorError::InvalidHeaderLength);
        }
        let header = serde_json::from_slice(&text);
        let header: Self = header.map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        let (from, data) = (LENGTH + text.len(), header.data_len()?);
        match data.checked_add(from) {
            Some(end) if end as u64 == file.metadata()?.len() => Ok((header, from)),
            _ => Err(SafeTensorError::MetadataIncompleteBuffer),
        }
    }

    /// Checks types, shapes and places against each other, and gives the number of all tensors' bytes.
    fn data_len(&self) -> Result<usize, SafeTensorError> {
        let mut tensors: Vec<_> = self.tensors.clone().into_iter().collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        Ok(Metadata::new(None, tensors)?.data_len())
    }

    /// The digests of all tensors, in the order of their names; none where the file has none.
    pub(super) fn digests(&self) -> Option<impl Iterator<Item = &str>> {
        Some(self.metadata.get(DIGESTS)?.split(' '))
    }

    pub(super) fn set_digests(&mut self, digests: &[String]) {
        self.metadata.insert(DIGESTS.into(), digests.join(" "));
    }

    /// The bytes of the header with its length, filled up to whole words.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        serde_json::to_writer(&mut bytes, self).expect("names and numbers are JSON");
        bytes.resize(bytes.len().next_multiple_of(LENGTH), b' ');
        let length = (bytes.len() - LENGTH) as u64;
        bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
        bytes
    }
}

/// Entries by name. A map by itself would keep the last of those with one name, and say nothing.
fn distinct<'de, D: Deserializer<'de>>(map: D) -> Result<BTreeMap<String, TensorInfo>, D::Error> {
    map.deserialize_map(Distinct)
}

struct Distinct;

impl<'de> Visitor<'de> for Distinct {
    type Value = BTreeMap<String, TensorInfo>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if tensors.contains_key(&name) {
                let twice = format_args!("two tensors are called {name:?}");
                return Err(de::Error::custom(twice));
            }
            tensors.insert(name, map.next_value()?);
        }
        Ok(tensors)
    }
}
