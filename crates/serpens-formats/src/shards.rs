//! Weights in several files, with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Fault, Result, json};

/// The file, or where it is missing the several that an index beside it (`<path>.index.json`) says its tensors are in;
/// none where both are missing.
///
/// # Errors
/// [`Error::Io`]; [`Fault::Json`]; [`Fault::NoWeights`], [`Fault::Outside`] where the index names no file, or one
/// outside its folder.
pub fn shards(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    let index = Path::new(&index);
    if path.exists() || !index.exists() {
        return Ok(path.exists().then(|| vec![path.to_owned()]));
    }
    let Index { weight_map } = json::read(index, "index of weights")?;
    let files: BTreeSet<String> = weight_map.into_values().collect();
    let failed = Error::at(index);
    if files.is_empty() {
        return Err(failed(Fault::NoWeights));
    }
    let inside = |file: String| {
        let mut names = Path::new(&file).components();
        let lies = !file.is_empty() && names.all(|name| matches!(name, Component::Normal(_)));
        match lies {
            true => Ok(index.with_file_name(file)),
            false => Err(failed(Fault::Outside(file))),
        }
    };
    let files: Result<_> = files.into_iter().map(inside).collect();
    files.map(Some)
}
