//! PyTorch's files (`.bin`, `.pt`, `.ckpt`): a zip with a pickle, which says how tensors are made, and their storages.
//!
//! A pickle is a program. Here it runs on a machine that knows only what tensors, and the dictionaries that they are
//! in, are made of: nothing of Python is called or imported. Whatever else a pickle asks for becomes a value without a
//! meaning, which is skipped where no tensor depends on it (settings, optimisers' and Lightning's objects beside the
//! weights), and is refused by name where one does.

mod machine;
mod tensors;
#[cfg(test)]
mod tests;
mod values;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

use bumpalo::Bump;
use serpens_core::files;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use self::machine::Machine;
use crate::tensor_file::Entry;
use crate::{Fault, Result, TensorFile};

/// What a pickle without an archive begins with.
const PICKLE: u8 = 0x80;
/// The most bytes that a pickle may have: a model's are some hundreds for each tensor. To run it may take some fifty
/// times as many.
const MOST: u64 = 16 << 20;

type Archive<'a> = ZipArchive<BufReader<&'a File>>;

/// Opens a file that `torch.save` wrote (PyTorch 1.6 or later), and reads what is where. The tensors are those of its
/// dictionary, or of `state_dict` in it, as Lightning has it; names of nested dictionaries are joined by dots. With a
/// prefix only tensors under it are there, without it: `model.` leaves `a.weight` of `model.a.weight`. A prefix ends
/// with its dot.
///
/// ```
/// use serpens_core::Device;
/// use serpens_formats::pytorch;
///
/// # fn main() -> serpens_formats::Result<()> {
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
/// let file = pytorch::open(&folder.join("lightning.ckpt"), "model.")?;
/// let names: Vec<&str> = file.tensors().map(|(name, _)| name).collect();
/// assert_eq!(names, ["bias", "weight"]);
/// let bias = file.tensor("bias", Device::Cpu)?;
/// assert_eq!(bias.as_slice::<f32>()?, [-1.0, -1.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::File`](crate::Error::File) where the file is broken, of another kind, or
/// has no tensors that can be made without running its code.
pub fn open(path: &Path, prefix: &str) -> Result<TensorFile> {
    TensorFile::open(path, |file| read(file, prefix))
}

fn read(file: &File, prefix: &str) -> Result<BTreeMap<String, Entry>, Fault> {
    let mut file = BufReader::new(file);
    if file.fill_buf()?.first() == Some(&PICKLE) {
        return Err(Fault::Legacy);
    }
    let mut zip = ZipArchive::new(file)?;
    if zip.has_duplicate_names() || zip.has_overlapping_files()? {
        return Err(Fault::Overlap);
    }
    let names = zip.file_names().filter_map(Result::ok);
    let pickles =
        names.filter(|name| name.ends_with("/data.pkl") && name.matches('/').count() == 1);
    let pickles: Vec<String> = pickles.map(Cow::into_owned).collect();
    let [pickle] = &*pickles else {
        return Err(Fault::Pickles(pickles.len()));
    };
    let folder = pickle.trim_end_matches("data.pkl");
    match contents(&mut zip, &format!("{folder}byteorder")) {
        Ok(order) if order != b"little" => return Err(Fault::BigEndian),
        Ok(_) | Err(ZipError::FileNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let pickle = contents(&mut zip, pickle)?;
    let arena = Bump::new();
    let mut entries = BTreeMap::new();
    for (name, view) in Machine::run(&arena, &pickle)?.tensors(prefix)? {
        let key = format!("{folder}data/{}", view.storage.key);
        let storage = place(&mut zip, &key).ok_or(Fault::Storage(key))?;
        let entry = tensors::locate(view, storage);
        let entry = entry.ok_or_else(|| Fault::View(name.clone()))?;
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// A whole file of an archive, of at most [`MOST`] bytes.
fn contents(zip: &mut Archive<'_>, name: &str) -> Result<Vec<u8>, ZipError> {
    files::read(zip.by_name(name)?, MOST).map_err(ZipError::Io)
}

/// Where in an archive the bytes of a file are, if it has them as they are.
fn place(zip: &mut Archive<'_>, name: &str) -> Option<Range<u64>> {
    let file = zip.by_name(name).ok()?;
    let stored = file.compression() == CompressionMethod::Stored;
    let start = file.data_start().filter(|_| stored)?;
    Some(start..start + file.compressed_size())
}
