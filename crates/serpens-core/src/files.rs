//! Files that appear complete or not at all, and reading those of others within bounds.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most bytes of a file that is read whole: settings, recipes, an index of weights.
pub const MOST_WHOLE: u64 = 64 << 20;

/// What a path may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A regular file: for what lies in a folder, which may be somebody else's.
    Files,
    /// Whatever can be read, such as a pipe or `/dev/stdin`: for what a user names.
    Streams,
}

/// Why a file that the system would read is not read: what [`open`], [`read`] and [`text`] put into an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// A folder, a pipe, a socket or a device.
    #[error("it is no regular file")]
    NoFile,
    /// It is larger than what it should be can be.
    #[error("it has more than {} MiB", .0 >> 20)]
    TooLarge(u64),
    /// It is not UTF-8.
    #[error("it is not text in UTF-8 ({0})")]
    NoText(#[from] std::str::Utf8Error),
}

/// What could not be done with a file. Its text is one line: what, where, why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// `read`, `write`, `rename` or `remove`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The system's reason, or [`Unread`].
    pub source: io::Error,
}

impl FileError {
    /// The error of what the system refused to do (`read`, `write`, `rename`, `remove`) with a file.
    pub fn of(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| FileError {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

impl From<Unread> for io::Error {
    fn from(why: Unread) -> Self {
        let kind = match why {
            Unread::NoFile => io::ErrorKind::InvalidInput,
            Unread::TooLarge(_) => io::ErrorKind::FileTooLarge,
            Unread::NoText(_) => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, why)
    }
}

/// Held while names in folders are made or changed; for good by who ends the process.
static NAMES: Mutex<()> = Mutex::new(());

fn change_names<T>(change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _held = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    change()
}

/// Opens what `path` leads to, to read it. What is not accepted is not opened either, for that may wait (a pipe) or act
/// (a device).
///
/// # Errors
/// Those of the system; [`Unread::NoFile`].
pub fn open(path: &Path, accept: Accept) -> Result<File, FileError> {
    let opened = match fs::metadata(path) {
        Ok(found) if accept == Accept::Files && !found.is_file() => Err(Unread::NoFile.into()),
        _ => File::open(path),
    };
    opened.map_err(FileError::of("read", path))
}

/// All that is left to read, which is at most so many bytes.
///
/// # Errors
/// Those of the system; [`Unread::TooLarge`].
pub fn read(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(Unread::TooLarge(most).into()),
        false => Ok(bytes),
    }
}

/// All bytes of what `path` leads to, which are at most so many.
///
/// # Errors
/// Those of [`open`] and [`read`].
pub fn read_bytes(path: &Path, accept: Accept, most: u64) -> Result<Vec<u8>, FileError> {
    read(open(path, accept)?, most).map_err(FileError::of("read", path))
}

/// Bytes as text, without the mark that some editors put before it.
///
/// # Errors
/// [`Unread::NoText`].
pub fn text(mut bytes: Vec<u8>) -> io::Result<String> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    let text = String::from_utf8(bytes).map_err(|error| Unread::NoText(error.utf8_error()));
    Ok(text?)
}

/// The text that `path` leads to, of at most [`MOST_WHOLE`] bytes.
///
/// # Errors
/// Those of [`read_bytes`] and [`text`].
pub fn read_text(path: &Path, accept: Accept) -> Result<String, FileError> {
    text(read_bytes(path, accept, MOST_WHOLE)?).map_err(FileError::of("read", path))
}

/// Writes `path` through a temporary file beside it, which is brought to disk and then renamed: whatever happens to the
/// program or the machine, `path` is either as it was or as `write` made it. The folder must exist. Of a link, what it
/// leads to is written.
///
/// # Errors
/// Those of the system and of `write`; the temporary file is gone then. [`Unread::NoFile`] for a device, a pipe or a
/// folder, which a rename would put a file in the place of.
pub fn write_atomically<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let failed = FileError::of("write", path);
    let path = &*written_through(path)?;
    let temporary = temporary(path);
    let finish = |file: BufWriter<File>| {
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        rename(&temporary, path)
    };
    let written = (|| {
        let file = change_names(|| File::create(&temporary));
        let mut file = BufWriter::new(file.map_err(&failed)?);
        write(&mut file)?;
        Ok(finish(file).map_err(failed)?)
    })();
    if written.is_err() {
        // What is left of the temporary file is of no use; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Gives a file or a folder another name, and brings it to disk.
///
/// # Errors
/// Those of the system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    change_names(|| {
        fs::rename(from, to)?;
        to.parent().map_or(Ok(()), sync_folder)
    })
}

/// What is written where a link leads to it.
fn written_through(path: &Path) -> Result<PathBuf, FileError> {
    let through = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&through).is_ok_and(|found| !found.is_file()) {
        true => Err(FileError::of("write", path)(Unread::NoFile.into())),
        false => Ok(through),
    }
}

/// Refuses a file that [`write_atomically`] would refuse, before the work of which it is to hold the result.
///
/// # Errors
/// Those of the system; [`Unread::NoFile`].
pub fn check_writable(path: &Path) -> Result<(), FileError> {
    let attempt = temporary(&written_through(path)?);
    let made = || File::create(&attempt).and_then(|_| fs::remove_file(&attempt));
    change_names(made).map_err(FileError::of("write", path))
}

/// [`write_atomically`] of bytes that are at hand.
///
/// # Errors
/// Those of the system.
pub fn write_bytes(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    write_atomically(path, |file| {
        let written = file.write_all(bytes.as_ref());
        written.map_err(FileError::of("write", path))
    })
}

/// A path beside this one that no other writer takes, to be renamed to it once what it holds is whole.
pub fn temporary(path: &Path) -> PathBuf {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let mut name = begun(path);
    name.push(format!("{number}.tmp"));
    path.with_file_name(name)
}

/// How the names begin that [`temporary`] gives for this path.
fn begun(path: &Path) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-", std::process::id()));
    name
}

/// Removes what this process has begun to write in place of `path`, and ends it. Until it has ended other threads go on
/// with files that are open, but wait where one would be made or renamed through here.
pub fn exit_without(path: &Path, code: i32) -> ! {
    let _held = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    remove_begun(path);
    std::process::exit(code)
}

/// Removes what this process has begun to write in place of `path` and has not brought to its end: files or folders.
pub fn remove_begun(path: &Path) {
    let (begun, folder) = (begun(path), path.with_file_name("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .as_encoded_bytes()
            .starts_with(begun.as_encoded_bytes())
        {
            let left = entry.path();
            // What cannot be removed stays; there is an error already, or nobody to hear of it.
            let _ = fs::remove_dir_all(&left).or_else(|_| fs::remove_file(&left));
        }
    }
}

/// Whether both paths lead to one thing that is there.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(fs::canonicalize);
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}

/// Whether a file of this name is one that [`write_atomically`] writes to until it is renamed.
pub fn is_temporary(name: &str) -> bool {
    let start = name.strip_suffix(".tmp");
    let numbers = start.and_then(|start| start.rsplit_once('.')?.1.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Removes the temporary files below a folder, which programs left that were killed; nobody may be writing there. Gives
/// why some could not be removed.
pub fn remove_temporary(folder: &Path) -> Vec<FileError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            left.extend(remove_temporary(&path));
        } else if is_temporary(&entry.file_name().to_string_lossy()) {
            let failed = fs::remove_file(&path).err();
            left.extend(failed.map(FileError::of("remove", &path)));
        }
    }
    left
}

/// Makes a folder, and those above it that are missing, and brings their names to disk.
///
/// # Errors
/// Those of the system.
pub fn make_folders(folder: &Path) -> Result<(), FileError> {
    let above = folder.ancestors();
    let missing = above.take_while(|at| !at.as_os_str().is_empty() && !at.exists());
    let missing: Vec<&Path> = missing.collect();
    let mut parents = missing.iter().filter_map(|at| at.parent());
    let make = || fs::create_dir_all(folder).and_then(|()| parents.try_for_each(sync_folder));
    change_names(make).map_err(FileError::of("write", folder))
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
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("serpens-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What was put into an error of the system.
    fn why<T: std::fmt::Debug>(read: Result<T, FileError>) -> Unread {
        reason(read.unwrap_err().source)
    }

    fn reason(error: io::Error) -> Unread {
        let inner = error.into_inner().expect("a reason of ours");
        *inner.downcast().expect("a reason of ours")
    }

    #[test]
    fn text_is_read_with_or_without_a_mark_and_bytes_that_are_none_are_refused() {
        let folder = folder("text");
        let path = folder.join("file");
        for (bytes, expected) in [
            (&b"seed = 1"[..], "seed = 1"),
            (b"\xef\xbb\xbfseed", "seed"),
            (b"", ""),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read_text(&path, Accept::Files).unwrap(), expected);
        }
        fs::write(&path, b"abc\xff").unwrap();
        let Unread::NoText(error) = why(read_text(&path, Accept::Files)) else {
            panic!("read");
        };
        assert_eq!(error.valid_up_to(), 3);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_are_written_through_and_what_is_no_file_stays() {
        let folder = folder("links");
        let [file, link, socket] = ["file", "link", "socket"].map(|name| folder.join(name));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_bytes(&link, "after").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&socket, &folder] {
            let refused = write_bytes(path, "x").unwrap_err();
            assert_eq!(refused.action, "write");
            assert!(matches!(reason(refused.source), Unread::NoFile));
        }
        assert!(!fs::metadata(&socket).unwrap().is_file());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_known_before_and_nothing_is_left() {
        let folder = folder("writable");
        let path = folder.join("file");
        check_writable(&path).unwrap();
        fs::write(&path, "as it was").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "as it was");
        let missing = folder.join("missing/file");
        let refused = check_writable(&missing).unwrap_err();
        assert_eq!(refused.path, missing);
        assert_eq!(refused.source.kind(), io::ErrorKind::NotFound);
        assert!(matches!(why(check_writable(&folder)), Unread::NoFile));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_was_begun_of_a_path_is_removed_and_nothing_else() {
        let folder = folder("begun");
        let [one, other] = ["one", "other"].map(|name| folder.join(name));
        let begun = [temporary(&one), temporary(&one), temporary(&other)];
        fs::create_dir(&begun[0]).unwrap();
        for file in [&begun[0].join("file"), &begun[1], &begun[2], &one] {
            fs::write(file, "").unwrap();
        }
        remove_begun(&one);
        assert!(!begun[0].exists() && !begun[1].exists());
        assert!(begun[2].exists() && one.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        assert_eq!(read(&b"1234"[..], 4).unwrap(), b"1234");
        assert_eq!(read(&b"1234"[..], u64::MAX).unwrap(), b"1234");
        let endless = reason(read(io::repeat(0), 4).unwrap_err());
        assert!(matches!(endless, Unread::TooLarge(4)));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_read_only_where_they_are_meant() {
        let folder = folder("special");
        assert!(matches!(why(open(&folder, Accept::Files)), Unread::NoFile));
        let pipe = folder.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        // Opening it would wait for a writer that never comes.
        let refused = why(read_text(&pipe, Accept::Files));
        assert!(matches!(refused, Unread::NoFile));
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "seed = 1")
        });
        assert_eq!(read_text(&pipe, Accept::Streams).unwrap(), "seed = 1");
        writer.join().unwrap().unwrap();
        let endless = folder.join("endless");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        let refused = why(read_text(&endless, Accept::Files));
        assert!(matches!(refused, Unread::NoFile));
        let refused = why(read_text(&endless, Accept::Streams));
        assert!(matches!(refused, Unread::TooLarge(MOST_WHOLE)));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_a_killed_program_left_is_removed_and_nothing_else() {
        let folder = folder("left");
        let deep = folder.join("a/b");
        make_folders(&deep).unwrap();
        let left = ["config.toml.12-0.tmp", "a/b/x.json.4194304-31.tmp"];
        let others = ["notes.tmp", "x.-1.tmp", "x.1-.tmp", "x.1-2", "a/1-2.tmp.x"];
        for file in left.iter().chain(&others) {
            fs::write(folder.join(file), "").unwrap();
        }
        assert!(remove_temporary(&folder).is_empty());
        assert!(!left.iter().any(|file| folder.join(file).exists()));
        assert!(others.iter().all(|file| folder.join(file).exists()));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_else() {
        let folder = folder("replaced");
        let path = folder.join("report.html");
        write_bytes(&path, b"a longer text").unwrap();
        write_bytes(&path, b"a text").unwrap();
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
            assert!(write_bytes(path, b"a text").is_err());
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_fails_to_be_written_stays_as_it_was_and_leaves_nothing_behind() {
        let folder = folder("failed");
        let path = folder.join("file");
        write_bytes(&path, b"a text").unwrap();
        let failed = write_atomically(&path, |file| {
            let torn = file.write_all(b"torn").and(Err(io::Error::other("no")));
            torn.map_err(FileError::of("write", &path))
        });
        assert_eq!(failed.unwrap_err().source.to_string(), "no");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a text");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
