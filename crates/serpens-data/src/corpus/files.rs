//! From what the user wrote to a sorted list of files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, File, FileType, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use glob::{MatchOptions, Pattern, PatternError};

use crate::error::{Error, Result};

/// A file that is there and not empty.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub bytes: u64,
    /// When the file of this name was made, where the system knows: another one may take its place.
    made: Option<SystemTime>,
}

impl Found {
    /// Fills `into` with the bytes from `start` on.
    ///
    /// The file is opened anew for each reading: a corpus may have more files than a process may hold open.
    pub fn read(&self, start: u64, into: &mut [u8]) -> Result<()> {
        let unreadable = unreadable(&self.path);
        let metadata = fs::metadata(&self.path).map_err(&unreadable)?;
        let cut = !metadata.is_file() || metadata.len() < self.bytes;
        if cut || metadata.created().ok() != self.made {
            return Err(Error::Changed(self.path.clone()));
        }
        let mut file = File::open(&self.path).map_err(&unreadable)?;
        let read = file.seek(SeekFrom::Start(start));
        read.and_then(|_| file.read_exact(into)).map_err(unreadable)
    }
}

/// The files that `pattern` names, sorted by path: one file, all under a folder, or all matches of a glob.
///
/// What exists under exactly this name is taken first, so that a file called `a[1].txt` needs no escaping.
pub(super) fn find(pattern: &str) -> Result<Vec<Found>> {
    let path = Path::new(pattern);
    let (mut found, none) = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let any = Pattern::new("*").expect("it is one");
            let all = [Step::Name(path.into()), Step::Folders, Step::Names(any)];
            (walk(&all)?, Error::EmptyFolder(path.into()))
        }
        Ok(metadata) if metadata.is_file() => {
            let found = with_content(path.into(), &metadata);
            (found.into_iter().collect(), Error::EmptyFile(path.into()))
        }
        Ok(_) => return Err(Error::NotAFile(path.into())),
        Err(_) if pattern.contains(['*', '?', '[']) => {
            let pattern = pattern.to_owned();
            let steps = steps(&pattern).map_err(|source| Error::MalformedGlob {
                pattern: pattern.clone(),
                source,
            })?;
            (walk(&steps)?, Error::NoMatch(pattern))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::MissingPath(path.into()));
        }
        Err(error) => return Err(unreadable(path)(error)),
    };
    if found.is_empty() {
        return Err(none);
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path); // two `**` reach a file in several ways
    Ok(found)
}

/// What lies in a folder: paths, names, and what they are themselves, which may be a link. What is no folder has
/// nothing in it; the empty path is the current one.
fn listed(folder: &Path) -> Result<Vec<(PathBuf, OsString, FileType)>> {
    let current = folder.as_os_str().is_empty();
    let opened = if current { Path::new(".") } else { folder };
    if !opened.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(opened).map_err(unreadable(folder))?;
    let entry = |entry: io::Result<DirEntry>| {
        let entry = entry?;
        let name = entry.file_name();
        Ok((folder.join(&name), name, entry.file_type()?))
    };
    entries
        .map(|found| entry(found).map_err(unreadable(folder)))
        .collect()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// One component of a glob.
enum Step {
    /// Taken as it is.
    Name(OsString),
    /// Whatever it matches.
    Names(Pattern),
    /// `**`: any number of folders.
    Folders,
}

/// The steps of a pattern.
fn steps(pattern: &str) -> Result<Vec<Step>, PatternError> {
    let components = Path::new(pattern).components();
    let step = |component: Component<'_>| match component.as_os_str().to_str() {
        Some("**") => Ok(Step::Folders),
        Some(name) if name.contains(['*', '?', '[']) => Pattern::new(name).map(Step::Names),
        _ => Ok(Step::Name(component.as_os_str().to_owned())),
    };
    let steps = components.map(step).collect::<Result<Vec<_>, _>>();
    steps.map(|mut steps| {
        let folders = |step: &Step| matches!(step, Step::Folders);
        steps.dedup_by(|next, step| folders(next) && folders(step)); // two say what one says
        steps
    })
}

/// What the steps lead to. The glob crate's own walk panics at names that are not UTF-8, so it only says which names
/// match.
fn walk(steps: &[Step]) -> Result<Vec<Found>> {
    let options = MatchOptions {
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::new(), 0)];
    while let Some((path, done)) = open.pop() {
        match steps.get(done) {
            None if path.as_os_str().is_empty() => {} // the current folder
            None => {
                let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
                found.extend(with_content(path, &metadata));
            }
            Some(Step::Name(name)) => {
                let path = path.join(name);
                if path.symlink_metadata().is_ok() {
                    open.push((path, done + 1));
                }
            }
            Some(Step::Names(pattern)) => {
                for (path, name, _) in listed(&path)? {
                    if pattern.matches_with(&name.to_string_lossy(), options) {
                        open.push((path, done + 1));
                    }
                }
            }
            Some(Step::Folders) => {
                for (path, name, kind) in listed(&path)? {
                    if kind.is_dir() && !is_hidden(&name) {
                        open.push((path, done));
                    }
                }
                open.push((path, done + 1));
            }
        }
    }
    Ok(found)
}

/// The path, unless it is empty or no plain file (reading a pipe found by chance would wait for ever).
fn with_content(path: PathBuf, metadata: &Metadata) -> Option<Found> {
    (metadata.is_file() && metadata.len() > 0).then_some(Found {
        path,
        bytes: metadata.len(),
        made: metadata.created().ok(),
    })
}

pub(super) fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Unreadable {
        path: path.clone(),
        source,
    }
}
