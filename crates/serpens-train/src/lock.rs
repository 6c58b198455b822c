//! One process for a folder.

use std::fs::{OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

use same_file::Handle;
use serpens_core::files::{FileError, Unread};

use crate::{Error, Event, Observer, Result};

/// A folder that is written to by its holder alone, until this is dropped or the process ends, however that happens.
/// Reading it needs none. It hears a run that saves there, and ends it where it is the holder's no more.
pub struct Lock {
    folder: PathBuf,
    /// The file that is locked.
    held: Handle,
}

impl Lock {
    /// The name of the file that is locked; it says which process holds it.
    pub const FILE: &str = ".lock";

    /// Takes the folder, which is there.
    ///
    /// # Errors
    /// [`Error::InUse`] where another holds it; [`Error::Io`] where the folder cannot be written to, or something else
    /// than a file has that name.
    pub fn take(folder: &Path) -> Result<Self> {
        let (folder, path) = (folder.to_owned(), folder.join(Self::FILE));
        let failed = FileError::of("write", &path);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)] // what a link leads to is somebody else's
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(&failed)?;
        if !file.metadata().map_err(&failed)?.is_file() {
            return Err(failed(Unread::NoFile.into()).into());
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Its number is a courtesy: it may not be written yet.
                let _ = file.take(20).read_to_string(&mut holder);
                let (path, holder) = (folder, holder.parse().ok());
                return Err(Error::InUse { path, holder });
            }
            // Where the file system has no locks, nothing is kept apart.
            Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                return Err(failed(e).into());
            }
            _ => {}
        }
        file.set_len(0).map_err(&failed)?;
        write!(file, "{}", process::id()).map_err(&failed)?;
        let held = Handle::from_file(file).map_err(failed)?;
        Ok(Self { folder, held })
    }

    /// Whether the folder of this path still is the one that was taken, as it is to be before anything is saved in it.
    ///
    /// # Errors
    /// [`Error::Moved`]; [`Error::Io`] where that cannot be told.
    pub fn check(&self) -> Result<()> {
        let path = self.folder.join(Self::FILE);
        match Handle::from_path(&path) {
            Ok(there) if there == self.held => Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(FileError::of("read", &path)(e).into())
            }
            _ => Err(Error::Moved(self.folder.clone())),
        }
    }
}

impl Observer for &Lock {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Checkpointing => self.check(),
            _ => Ok(()),
        }
    }
}
