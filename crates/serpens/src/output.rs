//! The two streams that the command writes to, and its files.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use indicatif::{MultiProgress, ProgressDrawTarget};

use serpens_core::files::FileError;
use serpens_report::grouped;

use crate::Result;
use crate::stop::STOP;

/// The bars on standard error; there are none where it is no terminal, or one that only knows lines.
pub(crate) static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    MultiProgress::with_draw_target(match dumb {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    })
});

/// The text as it may be shown: what a terminal would obey, and what turns the order of letters, as `\u` and four
/// digits (so that JSON stays what it says); ends of lines and tabs as they are.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    };
    if !text.contains(obeyed) {
        return text.into();
    }
    let shown = |c: char| match obeyed(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// [`harmless`], on one line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// A text and the end of its line on standard output.
pub(crate) fn say(text: &str) -> Result<()> {
    print_drawn(&harmless(text))
}

/// A figure as it is, which has colours, of texts that are [`harmless`].
pub(crate) fn print_drawn(figure: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match takes_a_line(&out) {
        true => unless_gone(writeln!(out, "{figure}").and_then(|()| out.flush())).map(drop),
        false => Ok(()),
    }
}

/// Whether the reader of standard output is still there. That one went away, or a terminal, is no error: they have seen
/// what they wanted.
pub(crate) fn unless_gone(written: io::Result<()>) -> Result<bool> {
    const EIO: i32 = 5; // of a terminal that closed, on every Unix
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) if e.raw_os_error() == Some(EIO) && !is_file(io::stdout()) => Ok(false),
        Err(e) => Err(FileError::of("write", Path::new("standard output"))(e).into()),
    }
}

/// Whether a stream goes to a file, whose disk may fail.
#[cfg(unix)]
fn is_file(stream: impl std::os::fd::AsFd) -> bool {
    let file = stream.as_fd().try_clone_to_owned().map(std::fs::File::from);
    let about = file.and_then(|file| file.metadata());
    about.is_ok_and(|about| about.is_file())
}

#[cfg(not(unix))]
fn is_file<T>(_stream: T) -> bool {
    true
}

/// A line on standard error, for people, above the bars: where it cannot be written, the work goes on.
pub fn tell(line: &str) {
    if takes_a_line(io::stderr()) {
        // They are drawn again with their next change. Not with `suspend`: it panics where the terminal went away.
        let _ = BARS.clear();
        let _ = writeln!(io::stderr(), "{}", one_line(line));
    }
}

/// Whether a stream takes a line, which is waited for until an end was asked for: a reader that pauses holds the work
/// up, but not its end.
#[cfg(unix)]
fn takes_a_line(stream: impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    loop {
        let ends = STOP.load(Ordering::Relaxed);
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: if ends { 0 } else { 100_000_000 },
        };
        let stream = PollFd::new(&stream, PollFlags::OUT);
        match poll(&mut [stream], Some(&wait)) {
            Ok(0) if ends => return false,
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            _ => return true, // what is wrong, the writing tells
        }
    }
}

#[cfg(not(unix))]
fn takes_a_line<T>(_stream: T) -> bool {
    true
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
    /// Tells programs of an event. Where that fails people are told, and the work goes on.
    pub(crate) fn event(self, event: &serde_json::Value) {
        if self == OutputMode::Json
            && let Err(error) = say(&event.to_string())
        {
            tell(&format!("warning: {error}"));
        }
    }
}

/// So many of them, in words.
pub(crate) fn counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", grouped(count))
}

/// Three digits that say something; of large numbers all before the point, thousands apart.
pub(crate) fn significant(value: f64) -> String {
    if value < 0.0 {
        return format!("-{}", significant(-value));
    }
    let rounded = format!("{value:.2e}");
    match rounded.parse().unwrap_or(value) {
        0.0 => "0".into(),
        1e3..1e9 => grouped(format!("{value:.0}")),
        size @ 1e-3..1e3 => format!("{value:.*}", (2.0 - size.log10().floor()) as usize),
        _ => rounded,
    }
}

/// A figure by the name that files give it: 1.897 bits/byte for `bits_per_byte`.
pub(crate) fn figure(name: &str, value: f64) -> String {
    let unit = name.replace("_per_", "/").replace('_', " ");
    format!("{value:.3} {unit}")
}

/// As many fields, two spaces apart, as have room.
pub(crate) fn fitting(fields: &str, room: usize) -> &str {
    let ends = fields.match_indices("  ").map(|(end, _)| &fields[..end]);
    let fits = ends.chain([fields]);
    let fits = fits.filter(|kept| kept.chars().count() <= room);
    fits.last().unwrap_or_default()
}

/// Rows of cells as lines, the columns as wide as their widest cell.
pub(crate) fn aligned<'a>(rows: impl Iterator<Item = &'a Vec<String>> + Clone) -> String {
    let mut widths = Vec::new();
    for row in rows.clone() {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(c, w)| format!("{c:>w$}")).collect();
        cells.join("  ")
    };
    let lines: Vec<String> = rows.map(line).collect();
    lines.join("\n")
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
    fn numbers_and_fields_are_shown_whole() {
        for (value, shown) in [
            (3.1e-7, "3.10e-7"),
            (0.0, "0"),
            (0.000_999_9, "0.00100"),
            (0.012_345, "0.0123"),
            (2.772_6, "2.77"),
            (9.996, "10.0"),
            (61.5, "61.5"),
            (999.4, "999"),
            (999.6, "1,000"),
            (1_234_567.8, "1,234,568"),
            (4e9, "4.00e9"),
            (-4321.0, "-4,321"),
            (-432_100.0, "-432,100"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(significant(value), shown);
        }
        assert_eq!(figure("bits_per_byte", 1.8973), "1.897 bits/byte");
        assert_eq!(
            [counted(1, "step"), counted(499_328, "step")],
            ["1 step", "499,328 steps"]
        );
        let fields = "loss 0.0123  9 s left  93.9k tokens/s";
        assert_eq!(fitting(fields, 37), fields);
        assert_eq!(fitting(fields, 36), "loss 0.0123  9 s left");
        assert_eq!(fitting(fields, 20), "loss 0.0123");
        assert_eq!(fitting(fields, 4), "");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_told_from_other_streams() {
        assert!(is_file(tempfile::tempfile().unwrap()));
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_file(reader) && !is_file(writer));
    }

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

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let tricks =
            "a\tb\né\u{1b}[31m\r\u{7}\u{7f}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}";
        let shown =
            "a\tb\né\\u001b[31m\\u000d\\u0007\\u007f\\u009b2J\\u202e\\u2066\\u200f\\u061c\\u2028";
        assert_eq!(harmless(tricks), shown);
        assert_eq!(one_line("a\nerror: b\t"), "a\\nerror: b\\t");
        // JSON says the same with it.
        let value = serde_json::Value::from(tricks);
        let read: serde_json::Value = serde_json::from_str(&harmless(&value.to_string())).unwrap();
        assert_eq!(read, value);
    }
}
