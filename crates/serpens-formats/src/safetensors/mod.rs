//! The safetensors format: a header with the name, type, shape and place of every tensor, then their bytes. Written are
//! the header, tensor by tensor, and then the header again, with their digests.

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use serpens_core::files::{self, FileError, MOST_WHOLE, write_atomically};
use serpens_core::{Device, Shape, Tensor};

use crate::planned::places;
use crate::tensor_file::Entry;
use crate::{Encoding, Error, Fault, Planned, Result, TensorFile, Verify, digest};

/// Bytes of the header's length, which precedes it.
const LENGTH: usize = size_of::<u64>();
/// The key under which the tensors' digests are, in the order of the tensors' names.
const DIGESTS: &str = "serpens.xxh3";
/// The format's names of types that are not read.
const OTHERS: [&str; 15] = [
    "BOOL", "U8", "I8", "U16", "I16", "I32", "I64", "U64", "F4", "F6_E2M3", "F6_E3M2", "F8_E5M2",
    "F8_E4M3", "F8_E8M0", "C64",
];

/// Opens a safetensors file and reads its header.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where the header is broken, the file shorter than it says, or a tensor has more axes
/// than any here, or another's name.
pub fn open(path: &Path, verify: Verify) -> Result<TensorFile> {
    TensorFile::open(path, |file| read(file, verify))
}

fn read(mut file: &File, verify: Verify) -> Result<BTreeMap<String, Entry>, Fault> {
    let mut length = [0; LENGTH];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let text = files::read(file.take(length), MOST_WHOLE)?;
    let invalid = SafeTensorError::InvalidHeaderDeserialization;
    let twice = serde_json::Deserializer::from_slice(&text).deserialize_map(Twice);
    if let Some(name) = twice.map_err(invalid)? {
        return Err(Fault::Twice(name));
    }
    let header: Metadata = serde_json::from_slice(&text).map_err(invalid)?;
    let data = (LENGTH + text.len()) as u64;
    let end = data.checked_add(header.data_len() as u64);
    if text.len() as u64 != length || end != Some(file.metadata()?.len()) {
        return Err(SafeTensorError::MetadataIncompleteBuffer.into());
    }
    let said = header.metadata().as_ref();
    let said = said.filter(|_| verify == Verify::Digests);
    let digests = said.and_then(|said| said.get(DIGESTS));
    let mut digests = digests.map(|digests| digests.split(' '));
    let entry = |(name, info): (String, &TensorInfo)| {
        let shape = Shape::try_from(&*info.shape);
        let dtype = info.dtype.to_string();
        let mut other = OTHERS.into_iter().filter(|name| *name == dtype);
        let other = Encoding::Other(other.next().unwrap_or("another type"));
        // One that is missing among others is damage, as one that differs is.
        let digest = digests.as_mut().map(|all| all.next().unwrap_or_default());
        let entry = Entry {
            encoding: Encoding::named(&dtype).unwrap_or(other),
            shape: shape.map_err(|_| Fault::Rank(name.clone(), info.shape.len()))?,
            start: data + info.data_offsets.0 as u64,
            strides: None,
            digest: digest.map(str::to_owned),
        };
        Ok((name, entry))
    };
    // By name, as the digests are.
    let tensors = BTreeMap::from_iter(header.tensors());
    tensors.into_iter().map(entry).collect()
}

/// Gives a name that stands twice in a header. What is read into a map keeps the last of those, and says nothing.
struct Twice;

impl<'de> Visitor<'de> for Twice {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut header: A) -> Result<Self::Value, A::Error> {
        let (mut names, mut twice) = (BTreeSet::new(), None);
        while let Some((name, IgnoredAny)) = header.next_entry::<String, _>()? {
            twice = twice.or_else(|| names.replace(name));
        }
        Ok(twice)
    }
}

/// Reads every tensor of a safetensors file.
pub fn read_tensors(
    path: &Path,
    device: Device,
    verify: Verify,
) -> Result<BTreeMap<String, Tensor>> {
    let file = open(path, verify)?;
    let names = file.tensors().map(|(name, _)| name);
    let named = names.map(|name| Ok((name.to_owned(), file.tensor(name, device)?)));
    named.collect()
}

/// Writes tensors to a safetensors file as they are. They are brought from their devices one at a time.
///
/// # Errors
/// Those of [`write()`].
pub fn write_tensors<N: AsRef<str>, T: Borrow<Tensor>>(
    path: &Path,
    tensors: &[(N, T)],
) -> Result<()> {
    let (mut planned, mut values) = (Vec::new(), BTreeMap::new());
    for (name, value) in tensors {
        let (name, value) = (name.as_ref(), value.borrow());
        values.insert(name, value);
        planned.push(Planned {
            name: name.to_owned(),
            shape: value.shape(),
            encoding: Encoding::of(value.dtype()),
        });
    }
    write(path, &planned, |planned| Ok(values[&*planned.name].clone()))
}

/// Writes a safetensors file, which appears complete or not at all. `value` gives each planned tensor when it is its
/// turn, so that no more than one need be in memory. The file says `{"format": "pt"}` of itself, and has a digest of
/// each tensor.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where a tensor cannot be written as planned; [`Error::Core`] where it cannot be
/// brought to the processor; those of `value`.
pub fn write(
    path: &Path,
    planned: &[Planned],
    mut value: impl FnMut(&Planned) -> Result<Tensor>,
) -> Result<()> {
    let (infos, sorted) = plan(planned).map_err(Error::at(path))?;
    let digests = infos.keys().map(|&name| (name, "0".repeat(16)));
    let mut digests: BTreeMap<&str, String> = digests.collect();
    let failed = FileError::of("write", path);
    write_atomically(path, |file| {
        file.write_all(&header(&infos, &digests)).map_err(&failed)?;
        for planned in sorted {
            let here = value(planned)?.to(Device::Cpu)?;
            let bytes = planned.encode(path, &here)?;
            file.write_all(&bytes).map_err(&failed)?;
            let chunks = digest::of_chunks(&bytes);
            let Planned {
                name,
                shape,
                encoding,
            } = planned;
            let digest = digest::of_tensor(name, *encoding, shape, &chunks);
            digests.insert(name, digest);
        }
        let again = file.rewind();
        let written = again.and_then(|()| file.write_all(&header(&infos, &digests)));
        Ok(written.map_err(&failed)?)
    })
}

/// Checks that tensors can be written as planned, before anything is.
///
/// # Errors
/// [`Error::File`] of what [`write()`] would refuse whatever the values.
pub fn check(path: &Path, planned: &[Planned]) -> Result<()> {
    plan(planned).map(drop).map_err(Error::at(path))
}

/// What the header says of tensors, and the tensors in the order of their values.
fn plan(planned: &[Planned]) -> Result<(BTreeMap<&str, TensorInfo>, Vec<&Planned>), Fault> {
    let typed = planned.iter().map(|planned| {
        let dtype = serde_json::from_value(planned.encoding.to_string().into());
        let unknown = |_| Fault::Format(planned.name.clone(), planned.encoding);
        Ok((dtype.map_err(unknown)?, planned))
    });
    let mut typed = typed.collect::<Result<Vec<(Dtype, &Planned)>, Fault>>()?;
    // As the format's own library: the widest types first, so that all are aligned, and by name.
    typed.sort_by(|(a, one), (b, other)| (b, &one.name).cmp(&(a, &other.name)));
    let (dtypes, sorted): (Vec<_>, Vec<_>) = typed.into_iter().unzip();
    let mut infos = BTreeMap::new();
    for ((planned, dtype), place) in sorted.iter().zip(dtypes).zip(places(&sorted, 1)?) {
        let info = TensorInfo {
            dtype,
            shape: planned.shape.to_vec(),
            data_offsets: (place.start, place.end),
        };
        infos.insert(planned.name.as_str(), info);
    }
    Ok((infos, sorted))
}

/// The bytes of a header with its length, filled up to whole words.
fn header(tensors: &BTreeMap<&str, TensorInfo>, digests: &BTreeMap<&str, String>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Header<'a> {
        __metadata__: BTreeMap<&'a str, String>,
        #[serde(flatten)]
        tensors: &'a BTreeMap<&'a str, TensorInfo>,
    }

    let digests = Vec::from_iter(digests.values().map(String::as_str));
    // The library of the models' home refuses files that do not say `pt`.
    let said = [("format", "pt".to_owned()), (DIGESTS, digests.join(" "))];
    let header = Header {
        __metadata__: said.into(),
        tensors,
    };
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, &header).expect("names and numbers are JSON");
    bytes.resize(bytes.len().next_multiple_of(LENGTH), b' ');
    let length = (bytes.len() - LENGTH) as u64;
    bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
    bytes
}
