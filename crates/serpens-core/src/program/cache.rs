//! Compiled programs on disk, under a key of everything that shapes them.

use std::path::{Path, PathBuf};

use twox_hash::XxHash3_128;

use super::compile::{PRELUDE, version};
use super::source::Program;
use crate::Result;
use crate::files::{Accept, MOST_WHOLE, read_bytes, write_bytes};

/// What names a program: everything that shapes it.
pub(super) fn key(program: &Program, capability: (u32, u32)) -> Result<u128> {
    let Program { source, defines } = program;
    let texts = (PRELUDE, source.name, source.declarations(), source.text);
    // Texts are in quotes there, so that two cannot pass for one.
    let all = format!("{:?}", (version()?, capability, texts, defines));
    Ok(XxHash3_128::oneshot(all.as_bytes()))
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
        let _ = write_bytes(&path, &image);
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

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;

    #[test]
    fn whatever_shapes_a_program_is_in_its_key() {
        if let Err(reason) = version() {
            println!("skipped: the compiler is part of a key ({reason})");
            return;
        }
        static SOURCES: [Source; 4] = [
            Source::new("a", "text"),
            Source::new("b", "text"),
            Source::new("a", "another text"),
            Source::new("a", "text").after("before"),
        ];
        let of = |source, defines: &[(&str, &str)], capability| {
            let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            let defines = defines.iter().map(owned).collect();
            key(&Program { source, defines }, capability).unwrap()
        };
        let keys = [
            of(&SOURCES[0], &[("X", "1"), ("Y", "2")], (9, 0)),
            of(&SOURCES[1], &[("X", "1"), ("Y", "2")], (9, 0)),
            of(&SOURCES[2], &[("X", "1"), ("Y", "2")], (9, 0)),
            of(&SOURCES[3], &[("X", "1"), ("Y", "2")], (9, 0)),
            of(&SOURCES[0], &[("X", "1Y"), ("", "2")], (9, 0)),
            of(&SOURCES[0], &[("X", "1"), ("Y", "2")], (8, 0)),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(one), "{i}");
        }
        assert_eq!(keys[0], of(&SOURCES[0], &[("X", "1"), ("Y", "2")], (9, 0)));
    }
}
