//! Weights in several files, with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result, json};

/// The file, or where it is missing the several that an index beside it (`<path>.index.json`) says its tensors are in;
/// none where both are missing.
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`], [`Error::Index`] where the index names no file, or one outside its folder.
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
    let outside = files.iter().find(|file| !lies_inside(file)).cloned();
    if files.is_empty() || outside.is_some() {
        return Err(Error::Index {
            path: index.to_owned(),
            outside,
        });
    }
    let files = files.iter().map(|file| index.with_file_name(file));
    Ok(Some(files.collect()))
}

/// Whether a name cannot lead out of a folder.
fn lies_inside(name: &str) -> bool {
    let mut names = Path::new(name).components();
    !name.is_empty() && names.all(|name| matches!(name, Component::Normal(_)))
}
