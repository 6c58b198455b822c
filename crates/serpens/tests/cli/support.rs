//! Running the command, and looking at what came of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// Starts the command, and gives it once a line of its standard output has these words, with the lines behind that. Who
/// does not read them holds the command up when the pipe is full.
#[track_caller]
pub fn started(
    command: &mut Command,
    words: &str,
) -> (Child, impl Iterator<Item = String> + use<>) {
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.expect("the command starts");
    let stdout = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let told = lines.any(|line| line.contains(words));
    assert!(told, "{words} was never told");
    (child, lines)
}

/// Induction heads so small that a run takes a fraction of a second.
pub const TINY: &[&str] = &[
    "model.d_model=8",
    "model.n_layer=1",
    "model.block.inner.d_state=4",
    "twin.d_state=4",
    "task.batch=2",
    "task.lengths=[16]",
    "train.steps=4",
    "train.warmup=0",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "evaluate.lengths=[16, 32]",
    "evaluate.samples=4",
    "evaluate.rows=2",
];

/// A byte model of the same size.
pub const TINY_TEXT: &[&str] = &[
    "model.d_model=8",
    "model.n_layer=1",
    "model.block.inner.d_state=4",
    "task.batch=2",
    "task.length=16",
    "train.steps=3",
    "train.warmup=0",
    "train.log_every=1",
    "train.eval_every=2",
    "train.checkpoint_every=2",
];

/// A folder of its own for a test.
pub struct TestFolder {
    dir: TempDir,
}

impl TestFolder {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder can be made"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("the temporary folder can be written");
        path
    }

    /// A text of 4 kB.
    pub fn text(&self) -> PathBuf {
        self.write(
            "text.txt",
            "the snake eats its tail, and again. ".repeat(114),
        )
    }

    /// The command in this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_serpens"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// The command as a shell starts it after these words of its own.
    #[cfg(unix)]
    pub fn command_after(&self, words: &str, args: &[&str]) -> Command {
        let script = format!("{words}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_serpens")])
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// [`TestFolder::run`], with these bytes on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input).expect("the command reads it");
        drop(stdin);
        Ran::new(args, child.wait_with_output().expect("the command ends"))
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().expect("the command starts");
        Ran::new(args, output)
    }

    /// `serpens train induction-heads`, tiny, with more arguments.
    pub fn train(&self, args: &[&str]) -> Ran {
        self.run(&with_settings(&["train", "induction-heads"], TINY, args))
    }

    /// `serpens train text`, tiny, on [`TestFolder::text`], with more arguments.
    pub fn train_text(&self, args: &[&str]) -> Ran {
        self.text();
        let start = ["train", "text", "--data", "text.txt"];
        self.run(&with_settings(&start, TINY_TEXT, args))
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        let text = fs::read_to_string(self.path(name)).expect("the file is there");
        serde_json::from_str(&text).expect("the file is JSON")
    }
}

/// The arguments of a command with `--set` before each setting.
pub fn with_settings<'a>(
    start: &[&'a str],
    settings: &[&'a str],
    more: &[&'a str],
) -> Vec<&'a str> {
    let mut args = start.to_vec();
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    args.extend(more);
    args
}

/// What came of a command.
pub struct Ran {
    args: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(args: &[&str], output: Output) -> Self {
        Self {
            args: args.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.args, self.stderr);
        assert!(
            !self.stderr.contains("error"),
            "{}\n{}",
            self.args,
            self.stderr
        );
        self
    }

    /// Fails with this exit code, and a single line of error that holds these words.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        let context = format!("{}\n{:?}\n{}", self.args, self.code, self.stderr);
        assert_eq!(self.code, Some(code), "{context}");
        assert!(!self.stderr.contains("panicked"), "{context}");
        let from = self
            .stderr
            .find("error: ")
            .unwrap_or_else(|| panic!("{context}"));
        assert!(
            from == 0 || self.stderr[..from].ends_with('\n'),
            "{context}"
        );
        assert_eq!(self.stderr[from..].lines().count(), 1, "{context}");
        for word in words {
            assert!(
                self.stderr[from..].contains(word),
                "{word:?} is not in: {context}"
            );
        }
    }

    /// As [`Ran::fails`], and the error is all there is on standard error: nothing had begun.
    #[track_caller]
    pub fn is_refused(&self, code: i32, words: &[&str]) {
        self.fails(code, words);
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "{}\n{}",
            self.args,
            self.stderr
        );
        assert_eq!(self.stdout, "", "{}", self.args);
    }

    /// Standard output as lines of JSON, and nothing else.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Both sides of a terminal: the one that shows, and the one that programs write to.
#[cfg(target_os = "linux")]
pub fn terminal() -> (File, File) {
    use std::os::fd::FromRawFd;
    use std::ptr::{null, null_mut};

    let [mut main, mut side] = [0; 2];
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: both numbers are there to be written to, the size to be read, and nothing else is asked for.
    let opened = unsafe { libc::openpty(&mut main, &mut side, null_mut(), null(), &size) };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened, and nobody else has them.
    let [main, side] = [main, side].map(|fd| unsafe { File::from_raw_fd(fd) });
    (main, side)
}

/// All files under a folder with their bytes.
pub fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("the file can be read"))),
        }
    }
    found.sort();
    found
}

#[track_caller]
pub fn assert_same_file(a: &Path, b: &Path) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        read(a) == read(b),
        "{} and {} differ",
        a.display(),
        b.display()
    );
}
