//! Standard output that goes away or is full.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::process::Stdio;

use crate::support::{Ran, TINY, TestFolder, files, terminal, with_settings};

/// Commands that print, on a trained model called `a`.
const PRINTING: [&[&str]; 8] = [
    &["completions", "zsh"],
    &["report", "a"],
    &["recipes"],
    &["recipes", "show", "text"],
    &["doctor"],
    &["doctor", "--json"],
    &["inspect", "--model", "runs/a"],
    &["inspect", "--model", "runs/a", "--json"],
];

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let tiny = with_settings(&["train", "induction-heads"], TINY, &["--json"]);
    for args in PRINTING.into_iter().chain([&tiny[..]]) {
        let mut child = place
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        drop(child.stdout.take());
        let ran = Ran::new(args, child.wait_with_output().expect("the command ends"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_terminal_goes_away_comes_to_its_end() {
    let place = TestFolder::new();
    for (form, name) in [("--json", "a"), ("--quiet", "b")] {
        let (main, side) = terminal();
        let args = with_settings(&["train", "induction-heads"], TINY, &[form, "--name", name]);
        let mut command = place.command(&args);
        command.stdout(side).stderr(Stdio::piped());
        let child = command.spawn().expect("the command starts");
        drop((main, command));
        let ran = Ran::new(&args, child.wait_with_output().expect("the command ends"));
        ran.succeeds();
        assert!(place.path("runs").join(name).join("report.html").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    place.train_text(&["--quiet", "--name", "b"]).succeeds();
    let tiny = with_settings(&["train", "induction-heads"], TINY, &["--json"]);
    let generate: &[&str] = &["generate", "--model", "runs/b"];
    let json: &[&str] = &["generate", "--model", "runs/b", "--json"];
    for args in PRINTING.into_iter().chain([&tiny[..], generate, json]) {
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let output = place
            .command(args)
            .stdout(full)
            .output()
            .expect("the command starts");
        Ran::new(args, output).fails(1, &["cannot write standard output", "No space left"]);
    }
    // It is not training that a full disk of events ends.
    assert!(place.path("runs/induction-heads-1/report.html").exists());
    std::os::unix::fs::symlink("/dev/full", place.path("full.svg")).unwrap();
    let ran = place.run(&["inspect", "--model", "runs/a", "--out", "full.svg"]);
    ran.is_refused(1, &["cannot write full.svg", "No space left"]);
}

/// Memory that is not there gives the error of a disk that fails, and its file is a regular one.
#[cfg(target_os = "linux")]
#[test]
fn a_failing_disk_is_told() {
    let place = TestFolder::new();
    let failing = OpenOptions::new().write(true).open("/proc/self/mem");
    let mut command = place.command(&["recipes"]);
    let output = command.stdout(failing.expect("it is there")).output();
    let ran = Ran::new(&["recipes"], output.expect("the command starts"));
    ran.is_refused(1, &["cannot write standard output", "os error 5"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_the_end_of_a_long_prompt_and_a_file_all_of_it() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let prompt = format!("first{}last", "€".repeat(4000));
    place.write("prompt", &prompt);
    let args = [
        "generate",
        "--model",
        "a",
        "--tokens",
        "1",
        "--prompt-file",
        "prompt",
    ];
    let whole = place.run(&args).succeeds();
    assert!(whole.stdout.starts_with(&prompt) && !whole.stderr.contains("prompt"));
    let on_a_terminal = |args: &[&str]| {
        let (mut main, side) = terminal();
        let mut command = place.command(args);
        command.stdout(side).stderr(Stdio::piped());
        let child = command.spawn().expect("the command starts");
        drop(command);
        let mut shown = Vec::new();
        let _ = main.read_to_end(&mut shown); // a terminal ends with an error
        let ran = Ran::new(args, child.wait_with_output().expect("the command ends"));
        (ran.stderr, String::from_utf8_lossy(&shown).into_owned())
    };
    let (told, shown) = on_a_terminal(&args);
    // The cut would lie in a character.
    let hidden = "after 10,010 bytes of the prompt";
    assert!(told.contains(hidden), "{told}");
    let whole = format!("{}last", "€".repeat(665));
    assert!(shown.starts_with(&whole) && shown.len() < 2100, "{shown}");
    let (told, shown) = on_a_terminal(&[&args[..], &["--json"]].concat());
    assert!(!told.contains("prompt"), "{told}");
    assert!(shown.contains(&prompt), "{shown}");
}

/// A limit on the size of files acts as a full disk does: a write fails in the middle of a file.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_earlier_checkpoint_whole() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let before = files(&place.path("runs/a"));
    let resume = ["train", "--quiet", "--resume", "a", "--steps", "6"];
    let mut full = place.command_after("trap '' XFSZ; ulimit -f 8", &resume);
    let ran = Ran::new(&resume, full.output().expect("there is a shell"));
    ran.is_refused(1, &["cannot write", "step-0000006", "too large"]);
    let kept = |name: &str| name.contains("/checkpoints/") || name.contains("/model/");
    let after = files(&place.path("runs/a"));
    for (path, bytes) in before
        .iter()
        .filter(|(path, _)| kept(&path.to_string_lossy()))
    {
        assert!(
            after.contains(&(path.clone(), bytes.clone())),
            "{}",
            path.display()
        );
    }
    // With room again, the run goes on.
    place.run(&resume).succeeds();
    assert!(
        place
            .path("runs/a/checkpoints/step-0000006/state.json")
            .exists()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn folders_may_have_names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;

    let place = TestFolder::new();
    let name = std::ffi::OsStr::from_bytes(b"runs \xff");
    for form in ["--json", "--quiet"] {
        let args = with_settings(&["train", "induction-heads"], TINY, &[form]);
        let output = place.command(&args).arg("--out").arg(name).output();
        Ran::new(&args, output.expect("the command starts")).succeeds();
    }
    let model = place.path(".").join(name).join("induction-heads-2");
    let output = place.command(&["inspect", "--model"]).arg(model).output();
    Ran::new(&["inspect"], output.expect("the command starts")).succeeds();
}

/// What is drawn nearly at random is hardly ever UTF-8.
#[test]
fn what_a_model_writes_is_text_whatever_bytes_it_draws() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let prompt = "größe ".repeat(300); // longer than what is read in one pass
    let generate = |more: &[&str]| {
        let start = [
            "generate",
            "--model",
            "runs/a",
            "--temperature",
            "100",
            "--top-p",
            "1",
        ];
        let args = [&start[..], &["--tokens", "60", "--prompt", &prompt], more].concat();
        let output = place.command(&args).output().expect("the command starts");
        String::from_utf8(output.stdout).expect("all that is written is text")
    };
    let shown = generate(&[]);
    assert!(shown.starts_with(&prompt) && shown.contains('\u{fffd}'));
    let json: serde_json::Value = serde_json::from_str(&generate(&["--json"])).unwrap();
    assert_eq!(
        format!("{prompt}{}\n", json["text"].as_str().unwrap()),
        shown
    );
    assert_eq!(json["tokens"], 60);
}

#[test]
fn a_run_whose_folder_is_spoilt_ends_in_one_line() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    fs::remove_dir_all(place.path("runs/a/model")).unwrap();
    place.write("runs/a/model", "a file in the way");
    let ran = place.run(&["train", "--quiet", "--resume", "a"]);
    ran.is_refused(1, &["cannot write runs/a/model"]);
}
