//! The header: the name, type, shape and place of every tensor, and what else the file says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serpens_core::files::MOST_WHOLE;

/// Bytes of the header's length, which precedes it.
const LENGTH: usize = size_of::<u64>();
/// The key of what is no tensor.
const METADATA: &str = "__metadata__";
/// The key under which the tensors' digests are, in the order of their bytes in the file.
const DIGESTS: &str = "serpens.xxh3";

/// What a header says.
#[derive(Default)]
pub(super) struct Header {
    metadata: BTreeMap<String, String>,
    /// In the order of their bytes in the file.
    pub(super) tensors: Vec<(String, TensorInfo)>,
}

impl Header {
    /// A header of these tensors, whose bytes follow each other.
    pub(super) fn new(tensors: Vec<(String, TensorInfo)>) -> Result<Self, SafeTensorError> {
        Metadata::new(None, tensors.clone())?; // checks types, shapes and places against each other
        let mut metadata = BTreeMap::new();
        // The library of the models' home refuses files that do not say so.
        metadata.insert("format".into(), "pt".into());
        Ok(Self { metadata, tensors })
    }

    /// Reads the header of a file of so many bytes, and gives also where the tensors' bytes begin.
    pub(super) fn read(mut file: &File, bytes: u64) -> Result<(Self, usize), SafeTensorError> {
        let mut length = [0; LENGTH];
        if bytes < LENGTH as u64 {
            return Err(SafeTensorError::HeaderTooSmall);
        }
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MOST_WHOLE {
            return Err(SafeTensorError::HeaderTooLarge);
        }
        if length > bytes - LENGTH as u64 {
            return Err(SafeTensorError::InvalidHeaderLength);
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text)?;
        let header = serde_json::from_slice(&text);
        let mut header: Self = header.map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        (header.tensors).sort_by_key(|(_, info)| info.data_offsets);
        let data = Metadata::new(None, header.tensors.clone())?.data_len();
        let from = LENGTH + text.len();
        match (data as u64).checked_add(from as u64) {
            Some(end) if end == bytes => Ok((header, from)),
            _ => Err(SafeTensorError::MetadataIncompleteBuffer),
        }
    }

    /// The digests of all tensors, in their order; none where the file has none.
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

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry(METADATA, &self.metadata)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

/// Reads a header's entries one by one, for a map would keep the last of those with one name and say nothing.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a safetensors header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let twice = format_args!("two entries are called {name:?}");
                return Err(de::Error::custom(twice));
            }
            match name.as_str() {
                METADATA => header.metadata = map.next_value()?,
                _ => header.tensors.push((name, map.next_value()?)),
            }
        }
        Ok(header)
    }
}
