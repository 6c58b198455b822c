//! PyTorch's files (`.bin`, `.pt`, `.ckpt`): a zip with a pickle, which says how tensors are made, and their storages.
//!
//! A pickle is a program. Here it runs on a machine that knows only what tensors, and the dictionaries that they are in,
//! are made of: nothing of Python is called or imported. Whatever else a pickle asks for becomes a value without a
//! meaning, which is skipped where no tensor depends on it (settings, optimisers' and Lightning's objects beside the
//! weights), and is refused by name where one does.

mod archive;
mod calls;
mod fault;
mod machine;
mod tensors;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::files::{self, Accept};

pub use fault::Fault;

use self::archive::Archive;
use self::machine::Machine;
use crate::{Error, Result, TensorFile};

/// Opens a file that `torch.save` wrote (PyTorch 1.6 or later), and reads what is where. The tensors are those of its
/// dictionary, or of `state_dict` in it, as Lightning has it; names of nested dictionaries are joined by dots. With a
/// prefix only tensors under it are there, without it: `model` leaves `a.weight` of `model.a.weight`.
///
/// ```
/// use serpens_core::Device;
/// use serpens_formats::pytorch;
///
/// # fn main() -> serpens_formats::Result<()> {
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
/// let file = pytorch::open(&folder.join("lightning.ckpt"), Some("model"))?;
/// let names: Vec<&str> = file.tensors().map(|(name, _)| name).collect();
/// assert_eq!(names, ["bias", "weight"]);
/// let bias = file.tensor("bias", Device::Cpu)?;
/// assert_eq!(bias.as_slice::<f32>()?, [-1.0, -1.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`]; [`Error::PyTorch`] where the file is broken, of another kind, or has no tensors that can be made
/// without running its code.
pub fn open(path: &Path, prefix: Option<&str>) -> Result<TensorFile> {
    let failed = Error::pytorch(path);
    let file = files::open(path, Accept::Files)?;
    let mut archive = Archive::open(file).map_err(&failed)?;
    let pickle = archive.pickle().map_err(&failed)?;
    let (values, root) = Machine::run(&pickle).map_err(&failed)?;
    let prefix = match prefix.unwrap_or_default().trim_end_matches('.') {
        "" => String::new(),
        prefix => format!("{prefix}."),
    };
    let mut tensors = BTreeMap::new();
    let views = tensors::find(&values, root, &prefix, pickle.len()).map_err(&failed)?;
    for (name, view) in views {
        let storage = archive.storage(view.storage.key).map_err(&failed)?;
        let entry = tensors::locate(&values, view, storage);
        let entry = entry.ok_or_else(|| failed(Fault::View(name.clone())))?;
        tensors.insert(name, entry);
    }
    Ok(TensorFile {
        path: path.to_owned(),
        file: archive.into_file(),
        tensors,
    })
}
