//! From what the user wrote to a sorted list of files.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use glob::MatchOptions;

use crate::error::{Error, Result};

/// A file that is there and not empty.
pub(super) struct Found {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The files that `pattern` names, sorted by path: one file, all under a folder, or all matches of a glob.
///
/// What exists under exactly this name is taken first, so that a file called `a[1].txt` needs no escaping.
pub(super) fn find(pattern: &str) -> Result<Vec<Found>> {
    let path = Path::new(pattern);
    let (mut found, none) = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => (
            find_in_folder(path)?,
            Error::EmptyFolder { path: path.into() },
        ),
        Ok(metadata) if metadata.is_file() => {
            let found = with_content(path.into(), &metadata);
            (
                found.into_iter().collect(),
                Error::EmptyFile { path: path.into() },
            )
        }
        Ok(_) => return Err(Error::NotAFile { path: path.into() }),
        Err(_) if pattern.contains(['*', '?', '[']) => {
            let pattern = pattern.to_owned();
            (find_by_glob(&pattern)?, Error::NoMatch { pattern })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::MissingPath { path: path.into() });
        }
        Err(error) => return Err(unreadable(path)(error)),
    };
    if found.is_empty() {
        return Err(none);
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn find_in_folder(folder: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(&inner).map_err(unreadable(&inner))? {
            let entry = entry.map_err(unreadable(&inner))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(unreadable(&path))?;
            let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
            if kind.is_dir() {
                folders.push(path);
            } else {
                found.extend(with_content(path, &metadata));
            }
        }
    }
    Ok(found)
}

fn find_by_glob(pattern: &str) -> Result<Vec<Found>> {
    let options = MatchOptions {
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let matches = glob::glob_with(pattern, options).map_err(|source| Error::MalformedGlob {
        pattern: pattern.into(),
        source,
    })?;
    let mut found = Vec::new();
    for path in matches {
        let path = path.map_err(|e| unreadable(e.path())(e.into()))?;
        let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
        found.extend(with_content(path, &metadata));
    }
    Ok(found)
}

/// The path, unless it is empty or no plain file (reading a pipe found by chance would wait for ever).
fn with_content(path: PathBuf, metadata: &Metadata) -> Option<Found> {
    (metadata.is_file() && metadata.len() > 0).then_some(Found {
        path,
        bytes: metadata.len(),
    })
}

pub(super) fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Unreadable {
        path: path.clone(),
        source,
    }
}
