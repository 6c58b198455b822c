//! Reading: the metadata, and what is where.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serpens_core::files::{self, Accept, FileError};
use serpens_core::{MAX_RANK, Shape};

use super::header::Header;
use super::value::{Stored, Value};
use super::{Fault, MAGIC, Metadata, VERSION, encodings};
use crate::tensor_file::Entry;
use crate::{Encoding, Error, Result, TensorFile};

/// Opens a GGUF file, and reads its metadata and what is where. Shapes have the slowest axis first, as everywhere here.
///
/// # Errors
/// [`Error::Io`]; [`Error::Gguf`] where it is broken or of another version; [`Error::Rank`] where a tensor has more axes
/// than any here.
pub fn open(path: &Path) -> Result<(Metadata, TensorFile)> {
    let file = files::open(path, Accept::Files)?;
    let length = file.metadata().map_err(FileError::of("read", path))?.len();
    let mut header = Header::new(path, &file, length);
    let (tensors, keys) = read_start(&mut header)?;
    let metadata = read_metadata(&mut header, path, keys)?;
    let alignment = metadata.alignment(path)?;
    let mut entries = BTreeMap::new();
    for _ in 0..tensors {
        let (name, entry) = read_record(&mut header, path)?;
        if entries.contains_key(&name) {
            return Err(header.error(Fault::Twice(name)));
        }
        entries.insert(name, entry);
    }
    let data = header.at.next_multiple_of(alignment)..length;
    place(&mut entries, data, alignment).map_err(|fault| header.error(fault))?;
    let (path, tensors) = (path.to_owned(), entries);
    let file = TensorFile {
        path,
        file,
        tensors,
    };
    Ok((metadata, file))
}

/// Reads what stands before all: gives the numbers of tensors and keys.
fn read_start(header: &mut Header<'_>) -> Result<(u64, u64)> {
    if header.take()? != MAGIC {
        return Err(header.error(Fault::Magic));
    }
    match u32::read(header)? {
        2 | VERSION => Ok((u64::read(header)?, u64::read(header)?)),
        other if (1..=VERSION).contains(&other.swap_bytes()) => Err(header.error(Fault::BigEndian)),
        other => Err(header.error(Fault::Version(other))),
    }
}

fn read_metadata(header: &mut Header<'_>, path: &Path, keys: u64) -> Result<Metadata> {
    let (path, mut values) = (path.to_owned(), BTreeMap::new());
    for _ in 0..keys {
        let key = String::read(header)?;
        let value = Value::read(header, &key)?;
        if values.contains_key(&key) {
            return Err(header.error(Fault::Key(key)));
        }
        values.insert(key, value);
    }
    Ok(Metadata { path, values })
}

/// Reads the name of a tensor and what is said of it; its place is as it stands there, from the start of the data.
fn read_record(header: &mut Header<'_>, path: &Path) -> Result<(String, Entry)> {
    let name = String::read(header)?;
    let rank = u32::read(header)? as usize;
    if rank > MAX_RANK {
        let (path, found) = (path.to_owned(), rank);
        return Err(Error::Rank { path, name, found });
    }
    let mut dims = [0; MAX_RANK];
    for dim in dims[..rank].iter_mut().rev() {
        *dim = u64::read(header)?.try_into().unwrap_or(usize::MAX);
    }
    let number = u32::read(header)?;
    let Some(encoding) = encodings::encoding(number) else {
        return Err(header.error(Fault::Encoding { name, number }));
    };
    let shape = Shape::new(&dims[..rank]);
    let is_whole = shape.cols().is_multiple_of(encoding.block().0);
    if !is_whole || shape.count() == usize::MAX {
        return Err(header.error(Fault::Shape(name)));
    }
    let entry = Entry {
        encoding,
        shape,
        start: u64::read(header)?,
        strides: None,
        digest: None,
    };
    Ok((name, entry))
}

/// Makes places those in the file, where the data are in this range. Tensors that only the name of the encoding is known
/// of are never read, nor is it known where they end.
fn place(
    entries: &mut BTreeMap<String, Entry>,
    data: Range<u64>,
    alignment: u64,
) -> Result<(), Fault> {
    let known = |(_, entry): &(_, &mut Entry)| !matches!(entry.encoding, Encoding::Other(_));
    let mut known: Vec<(&String, &mut Entry)> = entries.iter_mut().filter(known).collect();
    known.sort_by_key(|(_, entry)| entry.start);
    let mut end = data.start;
    for (name, entry) in known {
        let (block, size) = entry.encoding.block();
        let size = ((entry.shape.count() / block) as u64).checked_mul(size as u64);
        let start = entry.start.checked_add(data.start);
        let ends = start
            .zip(size)
            .and_then(|(start, size)| start.checked_add(size));
        match start.zip(ends) {
            Some((start, ends))
                if entry.start.is_multiple_of(alignment) && start >= end && ends <= data.end =>
            {
                (entry.start, end) = (start, ends);
            }
            _ => return Err(Fault::Place(name.clone())),
        }
    }
    Ok(())
}
