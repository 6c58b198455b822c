//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a crash of the machine just after a write may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The file: for what can be made again.
    Cached,
    /// Nothing: it is brought to disk first, and then its name.
    OnDisk,
}

/// Writes `path` through a temporary file beside it, which is then renamed: whatever happens to the program, `path` is
/// either as it was or as `write` made it. The folder must exist.
///
/// # Errors
/// Those of the system and of `write`; the temporary file is gone then.
pub fn write_atomically<E: From<io::Error>>(
    path: &Path,
    durability: Durability,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = BufWriter::new(File::create(&temporary)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        if durability == Durability::Cached {
            return Ok(fs::rename(&temporary, path)?);
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => Ok(sync_folder(folder)?),
            None => Ok(()),
        }
    })();
    if written.is_err() {
        // What is left of the temporary file is of no use; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Brings the names in a folder to disk, such as after a rename; the empty path is the current folder.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let current = folder.as_os_str().is_empty();
    File::open(if current { Path::new(".") } else { folder })?.sync_all()
}

/// Folders cannot be opened as files here; renames are the system's business.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn write(path: &Path, durability: Durability, text: &str) -> io::Result<()> {
        write_atomically(path, durability, |file| file.write_all(text.as_bytes()))
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("serpens-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_else() {
        let folder = folder("replaced");
        let path = folder.join("report.html");
        write(&path, Durability::OnDisk, "a longer text").unwrap();
        write(&path, Durability::OnDisk, "a text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a text");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let folder = folder("blocked");
        let blocked = folder.join("report.html");
        fs::create_dir(&blocked).unwrap();
        for path in [
            &blocked,
            &folder.join("missing/report.html"),
            Path::new("/"),
        ] {
            assert!(write(path, Durability::OnDisk, "a text").is_err());
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_fails_to_be_written_stays_as_it_was_and_leaves_nothing_behind() {
        let folder = folder("failed");
        let path = folder.join("file");
        for (durability, text) in [(Durability::Cached, "one"), (Durability::OnDisk, "two")] {
            write(&path, durability, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let failed = write_atomically(&path, durability, |file| {
                file.write_all(b"torn")?;
                Err(io::Error::other("no"))
            });
            assert_eq!(failed.unwrap_err().to_string(), "no");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
