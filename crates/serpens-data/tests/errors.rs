//! Everything a user can get wrong is a typed error whose one line says what, where and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serpens_data::{
    Content, Corpus, Error, InductionHeads, InductionHeadsConfig, Prefetch, SelectiveCopying,
    SelectiveCopyingConfig, Split, Tokenizer,
};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open_pattern(pattern: &str) -> Result<Corpus, Error> {
    let (bytes, go_on) = (Tokenizer::bytes(), &mut |_, _| Ok(()));
    Corpus::open(pattern, &Content::Text, &bytes, &[], go_on)
}

fn open(path: &Path) -> Result<Corpus, Error> {
    open_pattern(path.to_str().expect("a plain path"))
}

/// The error's text, which must be one line and name every one of `parts`.
fn line(error: &Error, parts: &[&str]) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    text
}

#[test]
fn a_missing_path_is_named() {
    let path = folder().path().join("no-such-file.txt");
    let error = open(&path).expect_err("it is missing");
    assert!(matches!(&error, Error::MissingPath(named) if *named == path));
    line(
        &error,
        &[
            "no-such-file.txt",
            "does not exist",
            "give an existing file",
        ],
    );
}

#[test]
fn an_empty_file_is_named() {
    let folder = folder();
    let path = folder.path().join("empty.txt");
    fs::write(&path, "").expect("a file");
    let error = open(&path).expect_err("it is empty");
    assert!(matches!(error, Error::NoText(_)));
    line(&error, &["empty.txt", "holds no text", "a file with text"]);
}

#[test]
fn a_folder_with_nothing_in_it_is_named() {
    let folder = folder();
    fs::create_dir(folder.path().join("inner")).expect("a folder");
    fs::write(folder.path().join("inner/empty.txt"), "").expect("a file");
    fs::write(folder.path().join(".hidden"), "text").expect("a file");
    let error = open(folder.path()).expect_err("nothing to read");
    assert!(matches!(&error, Error::NoText(path) if path == folder.path()));
    line(&error, &["holds no text", "hidden"]);
}

#[test]
fn a_glob_that_matches_nothing_is_quoted() {
    let folder = folder();
    fs::create_dir(folder.path().join("folder.txt")).expect("a folder");
    fs::write(folder.path().join("empty.txt"), "").expect("a file");
    let error =
        open(&folder.path().join("*.txt")).expect_err("only a folder and an empty file match");
    assert!(matches!(error, Error::NoText(_)));
    line(&error, &["*.txt", "holds no text", "a glob"]);
}

#[test]
fn a_malformed_glob_is_quoted() {
    let error = open_pattern("texts/[a-").expect_err("the bracket is open");
    assert!(matches!(error, Error::MalformedGlob { .. }));
    line(&error, &["texts/[a-", "malformed"]);
}

/// Permissions do not stop every user, so the system refuses here for other reasons: a file used as a folder, and
/// a link that leads nowhere.
#[cfg(unix)]
#[test]
fn what_the_system_refuses_is_named_with_its_reason() {
    let folder = folder();
    fs::write(folder.path().join("file"), "text").expect("a file");
    let error = open(&folder.path().join("file/inner")).expect_err("a file is no folder");
    assert!(matches!(error, Error::File(_)));
    line(&error, &["file/inner", "cannot read", "directory"]);

    let link = folder.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("a link");
    let error = open(folder.path()).expect_err("the link leads nowhere");
    assert!(matches!(&error, Error::File(error) if error.path == link));
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("secret");
    fs::write(&path, "text").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("it is ours");
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    let error = open(&path).expect_err("it may not be read");
    assert!(matches!(error, Error::File(_)));
    line(&error, &["secret", "cannot read"]);
}

#[cfg(unix)]
#[test]
fn devices_and_sockets_are_refused() {
    let folder = folder();
    let path = folder.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let error = open(&path).expect_err("no file");
    assert!(matches!(error, Error::NotAFile { .. }));
    line(&error, &["socket", "neither a file nor a folder"]);
}

#[cfg(unix)]
#[test]
fn links_to_folders_are_passed_over_so_that_circles_end() {
    let folder = folder();
    fs::write(folder.path().join("file"), "text").expect("a file");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("circle")).expect("a link");
    assert_eq!(open(folder.path()).expect("it ends").tokens(), 4);
}

fn corpus_of(bytes: usize) -> (TempDir, Corpus) {
    let folder = folder();
    let path: PathBuf = folder.path().join("text");
    fs::write(&path, vec![b'x'; bytes]).expect("a file");
    let corpus = open(&path).expect("it is there");
    (folder, corpus)
}

#[test]
fn a_text_shorter_than_the_context_says_how_much_is_missing() {
    let (_folder, corpus) = corpus_of(100);
    let error = corpus
        .windows(1, 90, 0)
        .expect_err("90 tokens make no window of 90");
    assert!(matches!(
        error,
        Error::TooShort {
            split: Split::Train,
            available: 90,
            needed: 91,
            length: 90
        }
    ));
    line(
        &error,
        &["training", "has 90 tokens", "needs 91", "lower the length"],
    );

    let (_folder, corpus) = corpus_of(5);
    let error = corpus
        .slices(Split::Validation, 1, 16)
        .expect_err("a tenth of five bytes is nothing");
    assert!(matches!(
        error,
        Error::TooShort {
            split: Split::Validation,
            available: 0,
            needed: 1,
            ..
        }
    ));
    line(&error, &["validation", "has 0 tokens", "needs 1"]);

    let (_folder, corpus) = corpus_of(1);
    let error = corpus
        .slices(Split::Train, 1, 16)
        .expect_err("one byte predicts nothing");
    assert!(matches!(
        error,
        Error::TooShort {
            available: 1,
            needed: 2,
            ..
        }
    ));
}

#[test]
fn impossible_fractions_are_refused() {
    for got in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let (_folder, corpus) = corpus_of(10);
        let error = corpus.with_validation_fraction(got).expect_err("no share");
        assert!(matches!(error, Error::InvalidFraction { .. }));
        line(
            &error,
            &["validation fraction", &got.to_string(), "between 0"],
        );
    }
}

#[test]
fn impossible_byte_windows_are_refused() {
    let (_folder, corpus) = corpus_of(100);
    for (batch, length, name) in [(0, 10, "batch"), (1, 0, "length")] {
        let error = corpus.windows(batch, length, 0).expect_err("impossible");
        line(&error, &["text", name, "is 0", "at least 1"]);
        let error = corpus
            .slices(Split::Train, batch, length)
            .expect_err("impossible");
        line(&error, &[name, "is 0", "at least 1"]);
    }
    let error = corpus
        .windows(usize::MAX, 10, 0)
        .expect_err("beyond memory");
    assert!(matches!(error, Error::Size { .. }));
    line(&error, &["batch × length", "at most"]);
}

#[test]
fn impossible_induction_heads_are_refused() {
    let valid = InductionHeadsConfig::default;
    for (config, parts) in [
        (
            InductionHeadsConfig {
                vocab: 2,
                ..valid()
            },
            ["vocab is 2", "at least 3"],
        ),
        (
            InductionHeadsConfig {
                vocab: 1 << 32,
                ..valid()
            },
            ["vocab is 4294967296", "at most 4294967295"],
        ),
        (
            InductionHeadsConfig {
                batch: 0,
                ..valid()
            },
            ["batch is 0", "at least 1"],
        ),
        (
            InductionHeadsConfig {
                lengths: vec![],
                ..valid()
            },
            ["number of lengths is 0", "at least 1"],
        ),
        (
            InductionHeadsConfig {
                lengths: vec![256, 3],
                ..valid()
            },
            ["length is 3", "at least 4"],
        ),
        (
            InductionHeadsConfig {
                lengths: vec![usize::MAX],
                ..valid()
            },
            ["batch × length", "at most"],
        ),
    ] {
        let error = InductionHeads::new(config).expect_err("impossible");
        line(&error, &["induction heads: ", parts[0], parts[1]]);
    }
    let task = InductionHeads::new(valid()).expect("valid");
    assert!(matches!(
        task.evaluation_batch(1, 3, 0),
        Err(Error::Size { got: 3, allowed, .. }) if *allowed.start() == 4
    ));
    assert!(matches!(
        task.evaluation_batch(0, 64, 0),
        Err(Error::Size { got: 0, allowed, .. }) if *allowed.start() == 1
    ));
    assert!(matches!(
        task.evaluation_batch(1 << 20, 1 << 20, 0),
        Err(Error::Size { .. })
    ));
}

#[test]
fn impossible_selective_copying_is_refused() {
    let valid = SelectiveCopyingConfig::default;
    for (config, parts) in [
        (
            SelectiveCopyingConfig {
                vocab: 3,
                ..valid()
            },
            ["vocab is 3", "at least 4"],
        ),
        (
            SelectiveCopyingConfig {
                batch: 0,
                ..valid()
            },
            ["batch is 0", "at least 1"],
        ),
        (
            SelectiveCopyingConfig {
                data_tokens: 0,
                ..valid()
            },
            ["data_tokens is 0", "at least 1"],
        ),
        (
            SelectiveCopyingConfig {
                length: 15,
                ..valid()
            },
            ["length is 15", "at least 16"],
        ),
        (
            SelectiveCopyingConfig {
                length: usize::MAX,
                ..valid()
            },
            ["batch × length", "at most"],
        ),
    ] {
        let error = SelectiveCopying::new(config).expect_err("impossible");
        line(&error, &["selective copying: ", parts[0], parts[1]]);
    }
}

#[test]
fn a_prefetch_needs_room_for_a_batch() {
    let task = Arc::new(InductionHeads::new(InductionHeadsConfig::default()).expect("valid"));
    let error = Prefetch::new(task.clone(), 0).err().expect("no room");
    line(&error, &["prefetch: depth is 0", "at least 1"]);
    let error = Prefetch::new(task, 1 << 55).err().expect("no memory");
    line(&error, &["prefetch: depth is ", "at most"]);
}
