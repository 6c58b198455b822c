//! Whether a checkpoint is as it was written: digests of its files, which `state.json` holds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serpens_core::files::{self, Accept, FileError, MOST_WHOLE};
use serpens_formats::{Verify, digest};

use crate::changes::plain;
use crate::checkpoint::STATE_FILE;
use crate::state::State;
use crate::{Damage, Error, Result};

/// The digest of every file of a checkpoint by its name: of the state as compact JSON with sorted keys, without its
/// own; of the header of a safetensors file, which has digests of the tensors; of all bytes of others.
pub(crate) type Seal = BTreeMap<String, String>;

/// The state with digests of itself and of all other files in the folder `dir`.
pub(crate) fn seal(dir: &Path, state: &State) -> Result<State> {
    let failed = FileError::of("read", dir);
    let mut seal = Seal::new();
    for entry in fs::read_dir(dir).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| *name != STATE_FILE && path.is_file()) {
            seal.insert(name.to_owned(), of_file(&path)?);
        }
    }
    let state = state.clone();
    let mut state = State { seal, ..state };
    let own = of_state(plain(&state));
    state.seal.insert(STATE_FILE.to_owned(), own);
    Ok(state)
}

/// Refuses a state, as its file has it, or a folder of it, that is not as it was sealed, where that is verified.
pub(crate) fn check(dir: &Path, mut state: Value, verify: Verify) -> Result<()> {
    let seal = state.get("seal");
    let Some(seal) = seal.filter(|_| verify == Verify::Digests) else {
        return Ok(()); // the checkpoint of a version that had none
    };
    let seal = Seal::deserialize(seal);
    let mut seal = seal.map_err(|e| Error::damaged(&dir.join(STATE_FILE), e))?;
    let same = |name: &str, expected: String, found: String| match found == expected {
        true => Ok(()),
        false => {
            let damage = Damage::Digest { expected, found };
            Err(Error::damaged(&dir.join(name), damage))
        }
    };
    let own = seal.remove(STATE_FILE).unwrap_or_default();
    state["seal"] = plain(&seal);
    same(STATE_FILE, own, of_state(state))?; // before the names in it are trusted
    let mut files = seal.into_iter();
    files.try_for_each(|(name, expected)| same(&name, expected, of_file(&dir.join(&name))?))
}

/// What the file says, whichever version of the types wrote it.
fn of_state(mut state: Value) -> String {
    state.sort_all_objects();
    digest(state.to_string().as_bytes())
}

fn of_file(path: &Path) -> Result<String> {
    let mut file = files::open(path, Accept::Files)?;
    let mut length = u64::MAX;
    let read = || {
        if path.extension().is_some_and(|kind| kind == "safetensors") {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)?;
            length = u64::from_le_bytes(bytes);
        }
        files::read(file.take(length), MOST_WHOLE)
    };
    Ok(digest(&read().map_err(FileError::of("read", path))?))
}
