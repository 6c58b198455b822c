//! Standard output that goes away or is full.

use std::fs::{self, OpenOptions};
use std::process::Stdio;

use crate::support::{Place, Ran, TINY, with_settings};

/// Commands that print, on a trained model called `a`.
const PRINTING: [&[&str]; 6] = [
    &["recipes"],
    &["recipes", "show", "text"],
    &["doctor"],
    &["doctor", "--json"],
    &["inspect", "--model", "runs/a"],
    &["inspect", "--model", "runs/a", "--json"],
];

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
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
fn a_full_disk_is_told() {
    let place = Place::new();
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
    std::os::unix::fs::symlink("/dev/full", place.path("full.svg")).unwrap();
    let ran = place.run(&["inspect", "--model", "runs/a", "--out", "full.svg"]);
    ran.is_refused(1, &["cannot write full.svg", "No space left"]);
    println!("skipped: checkpoints on a full disk, which needs a disk of its own");
}

#[test]
fn a_run_whose_folder_is_spoilt_ends_in_one_line() {
    let place = Place::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    fs::remove_dir_all(place.path("runs/a/model")).unwrap();
    place.write("runs/a/model", "a file in the way");
    let ran = place.run(&["train", "--quiet", "--resume", "a"]);
    ran.is_refused(1, &["cannot write runs/a/model"]);
}
