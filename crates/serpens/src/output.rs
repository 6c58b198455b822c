//! The two streams that the command writes to.

use std::io::{self, ErrorKind, Write};

use crate::Result;

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

/// The text as one word of a shell: in quotes where it needs them.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
