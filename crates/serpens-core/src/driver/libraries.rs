//! Finding NVIDIA's libraries: on the loader's path, in the usual folders of CUDA, in Python environments.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Error, LibraryKind, Result};

/// Opens a library and says where it was found: a path, or a bare name that the system's loader resolved. What was
/// found once stays open.
///
/// # Errors
/// [`Error::Library`] where it is nowhere, with advice.
pub fn find(kind: LibraryKind) -> Result<&'static Path> {
    static FOUND: [OnceLock<Option<PathBuf>>; 3] = [const { OnceLock::new() }; 3];
    let found = FOUND[kind as usize].get_or_init(|| search(kind));
    found.as_deref().ok_or(Error::Library(kind))
}

fn search(kind: LibraryKind) -> Option<PathBuf> {
    let on_path = kind.names().iter().map(PathBuf::from);
    let in_folders = folders()
        .into_iter()
        .flat_map(|folder| kind.names().iter().map(move |name| folder.join(name)))
        .filter(|path| path.exists());
    on_path.chain(in_folders).find(|path| open(path, kind))
}

/// Opens a library for good. The bindings look it up by its bare name later, which finds the one that is open.
fn open(path: &Path, kind: LibraryKind) -> bool {
    if kind == LibraryKind::Nvrtc
        && let Some(folder) = path.parent().filter(|folder| folder.is_absolute())
    {
        // NVRTC opens its built-in headers by a bare name.
        for builtins in matching(folder, "libnvrtc-builtins.so") {
            keep_open(&builtins);
        }
    }
    keep_open(path)
}

#[cfg(unix)]
fn keep_open(path: &Path) -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: NVIDIA's libraries may be opened at any time; their initialisers have no preconditions.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(std::mem::forget).is_ok()
}

#[cfg(not(unix))]
fn keep_open(path: &Path) -> bool {
    // SAFETY: as on Unix.
    let library = unsafe { libloading::Library::new(path) };
    library.map(std::mem::forget).is_ok()
}

/// Folders in which CUDA's libraries are usually found, the likeliest first.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(named) = std::env::var_os("SERPENS_CUDA_LIBRARIES") {
        folders.extend(std::env::split_paths(&named));
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(std::env::var_os(variable).map(|home| Path::new(&home).join("lib64")));
    }
    let toolkits = matching(Path::new("/usr/local"), "cuda").into_iter();
    folders.extend(toolkits.map(|home| home.join("lib64")));
    folders.extend(
        [
            "/opt/cuda/lib64",
            "/usr/local/nvidia/lib64",
            "/usr/lib/wsl/lib",
        ]
        .map(PathBuf::from),
    );
    for packages in site_packages() {
        let nvidia = packages.join("nvidia");
        folders.extend(["cu13/lib", "cuda_nvrtc/lib", "cublas/lib"].map(|part| nvidia.join(part)));
    }
    folders
}

/// Package folders of the Python environments at hand.
fn site_packages() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|variable| std::env::var_os(variable).map(PathBuf::from))
        .collect();
    // The environment of the `python3` that the shell would start.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path).map(|folder| folder.join("python3"));
    roots.extend(python.filter(|file| file.exists()).filter_map(|file| {
        let file = std::fs::canonicalize(file.parent()?).ok()?;
        file.parent().map(Path::to_owned)
    }));
    roots.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut found = Vec::new();
    for root in roots {
        for python in matching(&root.join("lib"), "python3") {
            found.extend(["site-packages", "dist-packages"].map(|name| python.join(name)));
        }
    }
    found
}

/// The entries of `folder` whose names begin with `prefix`, in order of their names, the last first.
fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let begins = |name: &OsStr| name.to_string_lossy().starts_with(prefix);
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| begins(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.reverse();
    found
}
