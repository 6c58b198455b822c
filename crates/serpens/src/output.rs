//! The two streams that the command writes to, and its files.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serpens_core::files::{Durability, write_atomically};

use crate::{Error, Result};

/// A line on standard output. A reader that went away is no error: it has seen what it wanted.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(print_line(line)?)
}

/// [`say`], within a training run.
pub(crate) fn print_line(line: &str) -> serpens_train::Result<()> {
    let mut out = io::stdout().lock();
    unless_gone(writeln!(out, "{line}").and_then(|()| out.flush())).map(drop)
}

/// Whether the reader of standard output is still there; an error where the writing failed for another reason.
pub(crate) fn unless_gone(written: io::Result<()>) -> serpens_train::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(serpens_train::Error::Io {
            action: "write",
            path: "standard output".into(),
            source,
        }),
    }
}

/// A line on standard error, for people: where it cannot be written, the work goes on.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// How a command shows what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputMode {
    /// A bar where standard error is a terminal, plain lines otherwise.
    Terminal,
    /// Lines of JSON on standard output.
    Json,
    /// Nothing.
    Quiet,
}

impl OutputMode {
    /// Tells something that people read while the work goes on, or programs as an event.
    pub(crate) fn announce(self, line: &str, event: &serde_json::Value) -> Result<()> {
        match self {
            OutputMode::Terminal => tell(line),
            OutputMode::Json => say(&event.to_string())?,
            OutputMode::Quiet => {}
        }
        Ok(())
    }
}

/// Minutes and seconds.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A file of these bytes, which appears complete or not at all.
pub(crate) fn save(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write_atomically(path, Durability::OnDisk, |file| {
        file.write_all(bytes.as_ref())
    })
    .map_err(|e| Error::io("write", path, e))
}

/// The text as one word of a shell: in quotes where it needs them.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The command as it was given.
pub(crate) fn command_line() -> String {
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| shell_word(&word.to_string_lossy()));
    let words: Vec<String> = std::iter::once("serpens".to_owned()).chain(words).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        for (text, word) in [
            ("train.steps=5", "train.steps=5"),
            ("evaluate.lengths=[64]", "'evaluate.lengths=[64]'"),
            ("texts/*.txt", "'texts/*.txt'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
