//! One process for a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

use serpens_core::files::FileError;

use crate::{Error, Result};

/// A folder that is written to by its holder alone, until this is dropped or the process ends, however that happens.
/// Reading it needs none.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// The name of the file that is locked; it says which process holds it.
    pub const FILE: &str = ".lock";

    /// Takes the folder, which is there.
    ///
    /// # Errors
    /// [`Error::InUse`] where another holds it; [`Error::Io`] where the folder cannot be written to.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let failed = FileError::of("write", &path);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&path).map_err(&failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Its number is a courtesy: it may not be written yet.
                let _ = file.read_to_string(&mut holder);
                let (path, holder) = (dir.to_owned(), holder.parse().ok());
                return Err(Error::InUse { path, holder });
            }
            // Where the file system has no locks, nothing is kept apart.
            Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => {
                return Err(failed(e).into());
            }
            _ => {}
        }
        file.set_len(0).map_err(&failed)?;
        write!(file, "{}", process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
