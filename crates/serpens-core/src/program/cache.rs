//! Compiled programs on disk, under a key of everything that shapes them.

use std::path::{Path, PathBuf};

use super::compile::{PRELUDE, version};
use super::source::Program;
use crate::Result;
use crate::files::{Accept, Durability, MOST_WHOLE, read_bytes, write_bytes};

/// What names a program: everything that shapes it.
pub(super) fn key(program: &Program, capability: (u32, u32)) -> Result<u128> {
    let source = program.source;
    let mut key = Fnv::new();
    key.add(&version()?.to_le_bytes());
    key.add(&[capability.0, capability.1].map(u32::to_le_bytes).concat());
    for text in [PRELUDE, source.name, &source.declarations(), source.text] {
        key.add_text(text);
    }
    for (name, value) in &program.defines {
        key.add_text(name);
        key.add_text(value);
    }
    Ok(key.0)
}

/// The program's image under its key: from disk, or compiled and written there. A cache that cannot be read or written
/// costs time only.
pub(super) fn image(program: &Program, capability: (u32, u32), key: u128) -> Result<Vec<u8>> {
    let name = format!("{}-{key:032x}.cubin", program.source.name);
    let path = folder().map(|folder| folder.join(name));
    // What the loader refuses would be refused for ever: an empty or torn file is not a program.
    let kept = path.as_ref();
    let kept = kept.and_then(|path| read_bytes(path, Accept::Files, MOST_WHOLE).ok());
    if let Some(image) = kept.filter(|image| image.starts_with(b"\x7fELF")) {
        return Ok(image);
    }
    let (image, _) = program.compile(capability)?;
    if let Some(path) = path {
        // Failure is no harm.
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = write_bytes(&path, Durability::Cached, &image);
    }
    Ok(image)
}

/// Where programs are kept: `SERPENS_CACHE`, or `serpens/kernels` in the user's cache folder.
fn folder() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SERPENS_CACHE") {
        return Some(named.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Some(cache.or_else(home)?.join("serpens/kernels"))
}

/// The 128-bit hash of Fowler, Noll and Vo (variant 1a): the same on every machine and in every version.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul((1 << 88) + 0x13b);
        }
    }

    /// A text and its length, so that two texts cannot pass for one.
    fn add_text(&mut self, text: &str) {
        self.add(&text.len().to_le_bytes());
        self.add(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        let mut hash = Fnv::new();
        hash.add(b"a");
        assert_eq!(hash.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
