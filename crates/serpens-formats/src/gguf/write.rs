//! Writing: the header, and then tensor by tensor.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serpens_core::files::{FileError, write_atomically};
use serpens_core::{Device, Tensor};

use super::value::Stored;
use super::{MAGIC, Metadata, VERSION, encodings};
use crate::{Planned, Result, Unwritable};

/// The most axes that the format's own programs know.
const MOST_AXES: usize = 4;

/// Writes a GGUF file, which appears complete or not at all. `value` gives each planned tensor when it is its turn, so
/// that no more than one need be in memory; blocks are as the `gguf` Python package makes them.
///
/// ```
/// use serpens_core::{Device, Tensor};
/// use serpens_formats::gguf::{self, Metadata};
/// use serpens_formats::{Encoding, Planned};
///
/// # fn main() -> serpens_formats::Result<()> {
/// # let folder = tempfile::tempdir().expect("a folder for the example");
/// # let path = folder.path().join("model.gguf");
/// let mut metadata = Metadata::default();
/// metadata.set("general.architecture", "mamba".to_owned());
/// let planned = Planned {
///     name: "output.weight".into(),
///     shape: [2, 32].into(),
///     encoding: Encoding::Q8_0,
/// };
/// gguf::write(&path, &metadata, &[planned], |planned| {
///     Ok(Tensor::full(planned.shape, 0.5_f32, Device::Cpu)?)
/// })?;
///
/// let (metadata, file) = gguf::open(&path)?;
/// assert_eq!(metadata.get::<String>("general.architecture")?, "mamba");
/// assert_eq!(file.encoding("output.weight"), Some(Encoding::Q8_0));
/// let read = file.tensor("output.weight", Device::Cpu)?;
/// assert!(read.as_slice::<f32>()?.iter().all(|&x| (x - 0.5).abs() < 1e-3));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Unwritable`](crate::Error::Unwritable); [`Error::Gguf`](crate::Error::Gguf)
/// where the metadata give an alignment that there is not; [`Error::Core`](crate::Error::Core) where a tensor cannot be brought to the processor; those of `value`.
pub fn write(
    path: &Path,
    metadata: &Metadata,
    planned: &[Planned],
    mut value: impl FnMut(&Planned) -> Result<Tensor>,
) -> Result<()> {
    let alignment = metadata.alignment(path)? as usize;
    let mut header = header(path, metadata, planned, alignment)?;
    header.resize(header.len().next_multiple_of(alignment), 0);
    let failed = FileError::of("write", path);
    write_atomically(path, |file| {
        file.write_all(&header).map_err(&failed)?;
        for planned in planned {
            let here = value(planned)?.to(Device::Cpu)?;
            let bytes = planned.encode(path, &here)?;
            let padding = vec![0; bytes.len().next_multiple_of(alignment) - bytes.len()];
            for bytes in [&*bytes, &padding] {
                file.write_all(bytes).map_err(&failed)?;
            }
        }
        Ok(())
    })
}

/// All that stands before the data.
fn header(
    path: &Path,
    metadata: &Metadata,
    planned: &[Planned],
    alignment: usize,
) -> Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    VERSION.write(&mut bytes);
    for count in [planned.len(), metadata.values.len()] {
        (count as u64).write(&mut bytes);
    }
    for (key, value) in &metadata.values {
        key.write(&mut bytes);
        value.write(&mut bytes);
    }
    let (mut place, mut names) = (0_usize, BTreeSet::new());
    for planned in planned {
        let refused = |why| Err(planned.unwritable(path, why));
        let Some(number) = encodings::number(planned.encoding) else {
            return refused(Unwritable::Format);
        };
        if planned.shape.len() > MOST_AXES {
            return refused(Unwritable::Format);
        }
        if !names.insert(&planned.name) {
            return refused(Unwritable::Twice);
        }
        planned.name.write(&mut bytes);
        (planned.shape.len() as u32).write(&mut bytes);
        for &dim in planned.shape.iter().rev() {
            (dim as u64).write(&mut bytes);
        }
        number.write(&mut bytes);
        (place as u64).write(&mut bytes);
        place = place.saturating_add(planned.size(path)?);
        place = place
            .checked_next_multiple_of(alignment)
            .unwrap_or(usize::MAX);
    }
    Ok(bytes)
}
