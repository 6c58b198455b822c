//! From what the user wrote to a sorted list of files.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use glob::{MatchOptions, Pattern};
use serpens_core::files::FileError;

use crate::error::{Error, Result, joined};
use crate::unpack::{Packing, Whole, unpack};

/// A file that is there and not empty.
#[derive(Debug)]
pub(crate) struct Found {
    pub path: PathBuf,
    pub bytes: u64,
    /// When the file of this name was made, where the system knows: another one may take its place.
    made: Option<SystemTime>,
    /// Bytes that were read of what was opened last.
    taken: Arc<AtomicU64>,
}

impl Found {
    /// Fills `into` with the bytes from `start` on, as they are.
    ///
    /// The file is opened anew for each reading: a corpus may have more files than a process may hold open.
    pub fn read(&self, start: u64, into: &mut [u8]) -> Result<()> {
        let mut file = self.file()?;
        let read = file.seek(SeekFrom::Start(start));
        let read = read.and_then(|_| file.read_exact(into));
        Ok(read.map_err(FileError::of("read", &self.path))?)
    }

    /// The content from its beginning on, decompressed where it is gzip (of one member or several, as bgzip writes
    /// them) or zstd, whatever the file is called. What fails in reading it is an [`unread`](Self::unread).
    pub fn open(&self) -> Result<Box<dyn BufRead + Send>> {
        self.taken.store(0, Ordering::Relaxed);
        let (file, left, taken) = (self.file()?, self.bytes, self.taken.clone());
        unpack(Whole { file, left, taken }).map_err(|error| self.unread(error))
    }

    /// Why what [`open`](Self::open) gave cannot be read.
    pub fn unread(&self, error: io::Error) -> Error {
        if error.raw_os_error().is_some() {
            return FileError::of("read", &self.path)(error).into();
        }
        let error = joined(&error.to_string());
        let wrong = format!("it is cut short or damaged ({error}): get it anew");
        Error::of_content(&self.path, "", wrong)
    }

    /// Bytes of the file that were read since it was opened, compressed ones as they are.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed) as usize
    }

    /// Whether the content is other than the bytes.
    pub fn is_compressed(&self) -> Result<bool> {
        let mut first = [0; 4];
        let first = &mut first[..self.bytes.min(4) as usize];
        self.read(0, first)?;
        Ok(!matches!(Packing::of(first), Packing::None))
    }

    /// How the name ends, without what says that it is compressed.
    pub fn extension(&self) -> Option<&OsStr> {
        let end = self.path.extension()?;
        match ["gz", "bgz", "zst"].iter().any(|packed| end == *packed) {
            true => Path::new(self.path.file_stem()?).extension(),
            false => Some(end),
        }
    }

    /// The file, which must be what it was when it was found.
    fn file(&self) -> Result<File> {
        let unreadable = FileError::of("read", &self.path);
        let metadata = fs::metadata(&self.path).map_err(&unreadable)?;
        let cut = !metadata.is_file() || metadata.len() < self.bytes;
        if cut || metadata.created().ok() != self.made {
            return Err(Error::Changed(self.path.clone()));
        }
        Ok(File::open(&self.path).map_err(unreadable)?)
    }
}

/// The content of a file that a user names, as [`Found::open`] gives it.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let metadata = fs::metadata(path).map_err(FileError::of("read", path))?;
    let found = with_content(path, &metadata);
    found.ok_or_else(|| Error::NoText(path.into()))?.open()
}

/// The files that `pattern` names, sorted by path: one file, all under a folder, or all matches of a glob.
///
/// What exists under exactly this name is taken first, so that a file called `a[1].txt` needs no escaping.
pub(crate) fn find(pattern: &str) -> Result<Vec<Found>> {
    const SIGNS: [char; 3] = ['*', '?', '['];
    let path = Path::new(pattern);
    let mut found = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => walk(path, "**")?,
        Ok(metadata) if metadata.is_file() => with_content(path, &metadata).into_iter().collect(),
        Ok(_) => return Err(Error::NotAFile(path.into())),
        Err(_) if pattern.contains(SIGNS) => {
            let components = path.components();
            let plain =
                components.take_while(|name| !name.as_os_str().to_string_lossy().contains(SIGNS));
            let folder: PathBuf = plain.collect();
            let glob = path.strip_prefix(&folder).expect("it begins with it");
            walk(&folder, &glob.to_string_lossy())?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::MissingPath(path.into()));
        }
        Err(error) => return Err(FileError::of("read", path)(error).into()),
    };
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    match found.is_empty() {
        true => Err(Error::NoText(path.into())),
        false => Ok(found),
    }
}

/// The files below a folder whose paths from there match a glob. Hidden ones do so only where it names them, and links
/// to folders lead further only where it says how far.
///
/// The glob crate's own walk panics at names that are not UTF-8, so it only says what matches.
fn walk(folder: &Path, glob: &str) -> Result<Vec<Found>> {
    let malformed = |source| Error::MalformedGlob {
        pattern: folder.join(glob).to_string_lossy().into_owned(),
        source,
    };
    let pattern = Pattern::new(glob).map_err(malformed)?;
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    // Only what matches the components before `**`, where there is one, is entered.
    let depth = glob.split('/').count();
    let components = glob.split('/').take_while(|name| !name.contains("**"));
    let components = components.map(Pattern::new).collect::<Result<Vec<_>, _>>();
    let components = components.map_err(malformed)?;
    let names_hidden = format!("/{glob}").contains("/.");
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = open.pop() {
        let path = Path::new(".").join(folder).join(&inner);
        if !path.is_dir() {
            continue; // what a glob's plain beginning leads to need not be there
        }
        let unreadable = FileError::of("read", &path);
        for entry in fs::read_dir(&path).map_err(&unreadable)? {
            let entry = entry.map_err(&unreadable)?;
            let inner = inner.join(entry.file_name());
            let path = folder.join(&inner);
            if pattern.matches_with(&inner.to_string_lossy(), options) {
                let metadata = fs::metadata(&path).map_err(FileError::of("read", &path))?;
                found.extend(with_content(&path, &metadata));
            }
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let level = inner.components().count();
            let leads_on = match components.get(level - 1) {
                Some(component) => {
                    level < depth && component.matches_with(&name.to_string_lossy(), options)
                }
                None => entry.file_type().is_ok_and(|kind| kind.is_dir()),
            };
            if leads_on && (names_hidden || !hidden) {
                open.push(inner);
            }
        }
    }
    Ok(found)
}

/// The file, unless it is empty or no plain one (reading a pipe found by chance would wait for ever).
fn with_content(path: &Path, metadata: &Metadata) -> Option<Found> {
    (metadata.is_file() && metadata.len() > 0).then(|| Found {
        path: path.to_owned(),
        bytes: metadata.len(),
        made: metadata.created().ok(),
        taken: Arc::default(),
    })
}
