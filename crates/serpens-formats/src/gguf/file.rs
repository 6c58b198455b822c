//! Files: the metadata, what is where, and the tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use serpens_core::files::{FileError, MOST_WHOLE, write_atomically};
use serpens_core::{Device, MAX_RANK, Shape, Tensor};

use super::metadata::read_any;
use super::{Kind, Metadata, encodings};
use crate::planned::places;
use crate::tensor_file::Entry;
use crate::{Encoding, Error, Fault, Planned, Result, TensorFile};

/// What files begin with.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
const VERSION: u32 = 3;
/// The most axes that the format's own programs know.
const MOST_AXES: usize = 4;

/// Opens a GGUF file, and reads its metadata and what is where. Shapes have the slowest axis first, as everywhere here.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where it is broken or of another version, or a tensor has more axes than any here.
pub fn open(path: &Path) -> Result<(Metadata, TensorFile)> {
    let mut metadata = Metadata::default();
    let file = TensorFile::open(path, |file| read(file, &mut metadata))?;
    metadata.path = path.to_owned();
    Ok((metadata, file))
}

/// Reads what stands before the data: adds to the metadata, and gives what is said of each tensor.
fn read(file: &File, metadata: &mut Metadata) -> Result<BTreeMap<String, Entry>, Fault> {
    let mut header = BufReader::new(file).take(MOST_WHOLE);
    if u32::read(&mut header)?.to_le_bytes() != MAGIC {
        return Err(Fault::Magic);
    }
    match u32::read(&mut header)? {
        2 | VERSION => {}
        other if (1..=VERSION).contains(&other.swap_bytes()) => return Err(Fault::BigEndian),
        other => return Err(Fault::Version(other)),
    }
    let (tensors, keys) = (u64::read(&mut header)?, u64::read(&mut header)?);
    for _ in 0..keys {
        let key = String::read(&mut header)?;
        let value = read_any(&key, &mut header)?;
        if metadata.values.insert(key.clone(), value).is_some() {
            return Err(Fault::Key(key));
        }
    }
    let alignment = metadata.alignment()?.into();
    let entries = (0..tensors).map(|_| read_entry(&mut header));
    let mut entries = entries.collect::<Result<Vec<_>, Fault>>()?;
    entries.sort_by_key(|(_, entry)| entry.start);
    let mut free = (MOST_WHOLE - header.limit()).next_multiple_of(alignment);
    let (data, length) = (free, file.metadata()?.len());
    let mut placed = BTreeMap::new();
    for (name, mut entry) in entries {
        let size = entry.encoding.size(&name, entry.shape)?;
        let is_aligned = entry.start.is_multiple_of(alignment);
        entry.start = entry.start.saturating_add(data);
        // One that only the encoding's name is known of is never read, nor is it known where it ends.
        if !matches!(entry.encoding, Encoding::Other(_)) {
            let end = entry.start.saturating_add(size as u64);
            if entry.start < free || end > length || !is_aligned {
                return Err(Fault::Place(name));
            }
            free = end;
        }
        if placed.insert(name.clone(), entry).is_some() {
            return Err(Fault::Twice(name));
        }
    }
    Ok(placed)
}

/// Reads the name of a tensor and what is said of it; its place is as it stands there, from the start of the data.
fn read_entry(header: &mut impl Read) -> Result<(String, Entry), Fault> {
    let (name, rank) = (String::read(header)?, u32::read(header)? as usize);
    if rank > MAX_RANK {
        return Err(Fault::Rank(name, rank));
    }
    let mut dims = [0; MAX_RANK];
    for dim in dims[..rank].iter_mut().rev() {
        *dim = u64::read(header)?.try_into().unwrap_or(usize::MAX);
    }
    let (shape, number) = (Shape::new(&dims[..rank]), u32::read(header)?);
    let Some(encoding) = encodings::encoding(number) else {
        return Err(Fault::Number(name, number));
    };
    let entry = Entry {
        encoding,
        shape,
        start: u64::read(header)?,
        strides: None,
        digest: None,
    };
    Ok((name, entry))
}

/// Writes a GGUF file, which appears complete or not at all. `value` gives each planned tensor when it is its turn, so
/// that no more than one need be in memory; blocks are as the `gguf` Python package makes them.
///
/// ```
/// use serpens_core::{Device, Tensor};
/// use serpens_formats::gguf::{self, Metadata};
/// use serpens_formats::{Encoding, Planned};
/// use serpens_ops::quantized_linear::Blocks;
///
/// # fn main() -> serpens_formats::Result<()> {
/// # let folder = tempfile::tempdir().expect("a folder for the example");
/// # let path = folder.path().join("model.gguf");
/// let mut metadata = Metadata::default();
/// metadata.set("general.architecture", "mamba".to_owned());
/// let planned = Planned {
///     name: "output.weight".into(),
///     shape: [2, 32].into(),
///     encoding: Encoding::Blocks(Blocks::Q8_0),
/// };
/// gguf::write(&path, &metadata, &[planned], |planned| {
///     Ok(Tensor::full(planned.shape, 0.5_f32, Device::Cpu)?)
/// })?;
///
/// let (metadata, file) = gguf::open(&path)?;
/// assert_eq!(metadata.get::<String>("general.architecture")?, "mamba");
/// assert_eq!(file.encoding("output.weight"), Some(Encoding::Blocks(Blocks::Q8_0)));
/// let read = file.tensor("output.weight", Device::Cpu)?;
/// assert!(read.as_slice::<f32>()?.iter().all(|&x| (x - 0.5).abs() < 1e-3));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where a tensor cannot be written as planned, or the metadata give an alignment that
/// there is not; [`Error::Core`] where a tensor cannot be brought to the processor; those of `value`.
pub fn write(
    path: &Path,
    metadata: &Metadata,
    planned: &[Planned],
    mut value: impl FnMut(&Planned) -> Result<Tensor>,
) -> Result<()> {
    let (header, alignment) = header(metadata, planned).map_err(Error::at(path))?;
    let failed = FileError::of("write", path);
    write_atomically(path, |file| {
        let mut padded = |bytes: &[u8]| {
            let padding = vec![0; bytes.len().next_multiple_of(alignment) - bytes.len()];
            let written = file.write_all(bytes);
            let written = written.and_then(|()| file.write_all(&padding));
            written.map_err(&failed)
        };
        padded(&header)?;
        for planned in planned {
            let here = value(planned)?.to(Device::Cpu)?;
            padded(&planned.encode(path, &here)?)?;
        }
        Ok(())
    })
}

/// All that stands before the data, and what the places of tensors are multiples of.
fn header(metadata: &Metadata, planned: &[Planned]) -> Result<(Vec<u8>, usize), Fault> {
    let alignment = metadata.alignment()? as usize;
    let mut bytes = MAGIC.to_vec();
    VERSION.write(&mut bytes);
    for count in [planned.len(), metadata.values.len()] {
        (count as u64).write(&mut bytes);
    }
    for (key, value) in &metadata.values {
        key.write(&mut bytes);
        bytes.extend(value);
    }
    let planned: Vec<&Planned> = planned.iter().collect();
    for (planned, place) in planned.iter().zip(places(&planned, alignment)?) {
        let number = encodings::number(planned.encoding);
        let Some(number) = number.filter(|_| planned.shape.len() <= MOST_AXES) else {
            return Err(Fault::Format(planned.name.clone(), planned.encoding));
        };
        planned.name.write(&mut bytes);
        (planned.shape.len() as u32).write(&mut bytes);
        for &dim in planned.shape.iter().rev() {
            (dim as u64).write(&mut bytes);
        }
        number.write(&mut bytes);
        (place.start as u64).write(&mut bytes);
    }
    Ok((bytes, alignment))
}
