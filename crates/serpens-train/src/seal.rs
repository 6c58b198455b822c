//! Whether a checkpoint is as it was written: digests of its files, which `state.json` holds.

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::files::{self, Accept};
use twox_hash::XxHash3_64;

use crate::checkpoint::STATE_FILE;
use crate::state::State;
use crate::{Damage, Error, Result};

/// Digests, each the XXH3-64 in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    /// Of the state as compact JSON, with this left empty.
    state: String,
    /// Of every other file by its name; of the header of a safetensors file, which has digests of the tensors.
    files: BTreeMap<String, String>,
}

/// The state with digests of itself and of all other files in the folder `dir`.
pub(crate) fn seal(dir: &Path, state: &State) -> Result<State> {
    let failed = |e| Error::io("read", dir, e);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| *name != STATE_FILE && path.is_file()) {
            files.insert(name.to_owned(), of_file(&path)?);
        }
    }
    let state = with_seal(state, files);
    let digest = of_state(&state);
    let seal = state.seal.map(|seal| Seal {
        state: digest,
        ..seal
    });
    Ok(State { seal, ..state })
}

/// Refuses a state, or a folder of it, that is not as it was sealed.
pub(crate) fn check(dir: &Path, state: &State) -> Result<()> {
    let Some(seal) = &state.seal else {
        return Ok(()); // the checkpoint of a version that had none
    };
    let differs = |path: &Path, expected: &str, found: String| {
        let expected = expected.to_owned();
        Error::damaged(path, Damage::Digest { expected, found })
    };
    let found = of_state(&with_seal(state, seal.files.clone()));
    if found != seal.state {
        return Err(differs(&dir.join(STATE_FILE), &seal.state, found));
    }
    for (name, expected) in &seal.files {
        let path = dir.join(name);
        let found = of_file(&path)?;
        if found != *expected {
            return Err(differs(&path, expected, found));
        }
    }
    Ok(())
}

fn with_seal(state: &State, files: BTreeMap<String, String>) -> State {
    let seal = Seal {
        state: String::new(),
        files,
    };
    State {
        seal: Some(seal),
        ..state.clone()
    }
}

fn of_state(state: &State) -> String {
    let text = serde_json::to_vec(state).expect("its keys are strings");
    format!("{:016x}", XxHash3_64::oneshot(&text))
}

fn of_file(path: &Path) -> Result<String> {
    let digest = || {
        let mut file = files::open(path, Accept::Files)?;
        let mut most = u64::MAX;
        if path.extension().is_some_and(|kind| kind == "safetensors") {
            let mut length = [0; 8];
            file.read_exact(&mut length)?;
            most = u64::from_le_bytes(length);
        }
        let mut hasher = XxHash3_64::new();
        let mut bytes = file.take(most);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match bytes.read(&mut buffer)? {
                0 => return Ok(format!("{:016x}", hasher.finish())),
                count => hasher.write(&buffer[..count]),
            }
        }
    };
    digest().map_err(|e: io::Error| Error::io("read", path, e))
}
