//! Ctrl-C and going on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{
    Ran, TINY, TINY_TEXT, TestFolder, assert_same_file, files, started, with_settings,
};

/// Starts a run, sends SIGINT once `event` was told, and waits for its end.
#[cfg(unix)]
fn interrupt_at(place: &TestFolder, args: &[&str], event: &str) -> Ran {
    signal_at(place.command(args), args, event, "INT")
}

/// The command with signals as they are by default: whoever runs these tests in the background or under nohup has some
/// ignored, which a run inherits.
#[cfg(unix)]
pub fn hear_signals(command: &mut Command) {
    use std::io::Error;
    use std::os::unix::process::CommandExt;

    let by_default = || {
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
            // SAFETY: POSIX allows it between fork and exec.
            if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure calls `signal` and nothing that takes a lock or memory.
    unsafe { command.pre_exec(by_default) };
}

#[cfg(unix)]
pub fn send(signal: &str, to: &Child) {
    let signal = format!("-{signal}");
    let kill = Command::new("kill")
        .args([signal, to.id().to_string()])
        .status();
    assert!(kill.expect("kill is there").success());
}

/// Starts a run, sends a signal once `event` was told, and waits for its end.
#[cfg(unix)]
fn signal_at(mut command: Command, args: &[&str], event: &str, signal: &str) -> Ran {
    hear_signals(&mut command);
    let (child, lines) = started(command.stderr(Stdio::piped()), event);
    send(signal, &child);
    lines.for_each(drop); // a full pipe would hold the run up
    Ran::new(args, child.wait_with_output().expect("the command ends"))
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_model() {
    let place = TestFolder::new();
    // More lines than a pipe holds: the run cannot end before the signal is sent, and the reading goes on after it.
    let long = ["--steps", "600", "--set", "train.checkpoint_every=0"];
    let whole = [&long[..], &["--quiet", "--name", "whole"]].concat();
    place.train(&whole).succeeds();
    // In the first model, and in the twin of a run that has the twin's name.
    for (name, hinted, event) in [
        ("a cut", "'runs/a cut'", "\"step\":5,"),
        ("twin", "runs/twin", "\"model\":\"S4D\""),
    ] {
        let more = [&long[..], &["--json", "--name", name]].concat();
        let args = with_settings(&["train", "induction-heads"], TINY, &more);
        let ran = interrupt_at(&place, &args, event);
        let hint = format!("serpens train --resume {hinted}\n");
        ran.fails(130, &["interrupted after step", &hint]);
        assert!(!place.path(&format!("runs/{name}/report.html")).exists());
        place
            .run(&["train", "--quiet", "--resume", &format!("runs/{name}")])
            .succeeds();
        for file in ["model/model.safetensors", "twin/model/model.safetensors"] {
            assert_same_file(
                &place.path(&format!("runs/whole/{file}")),
                &place.path(&format!("runs/{name}/{file}")),
            );
        }
        assert!(place.path(&format!("runs/{name}/report.html")).exists());
        let metrics =
            fs::read_to_string(place.path(&format!("runs/{name}/metrics.jsonl"))).unwrap();
        assert_eq!(metrics.lines().count(), 600, "every step is told once");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_heard_while_models_are_tested() {
    let place = TestFolder::new();
    let lengths = format!("evaluate.lengths={:?}", vec![4096; 2000]);
    let more = ["--json", "--name", "cut", "--set", &lengths];
    let args = with_settings(&["train", "induction-heads"], TINY, &more);
    // The last event before the tests: the twin's checkpoint of the last step.
    let ran = interrupt_at(&place, &args, "twin/checkpoints/step-0000004");
    ran.fails(130, &["interrupted", "--resume runs/cut"]);
    assert!(place.path("runs/cut/model/model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_heard_while_a_text_is_read() {
    let place = TestFolder::new();
    place.write("text.txt", "many words, again and again; ".repeat(400_000));
    let more = [
        &["--data", "text.txt", "--json", "--name", "cut"][..],
        &[
            "--set",
            "evaluate.tokens=10000000",
            "--set",
            "train.eval_every=0",
        ],
        &["--set", "task.validation=0.9"],
    ];
    let args = with_settings(&["train", "text"], TINY_TEXT, &more.concat());
    let ran = interrupt_at(&place, &args, "\"step\":3,");
    ran.fails(130, &["interrupted after step 3", "--resume runs/cut"]);
    // It ended before the text was read to its end, and after everything was saved.
    let metrics = fs::read_to_string(place.path("runs/cut/metrics.jsonl")).unwrap();
    assert!(!metrics.contains("bits_per_byte"), "{metrics}");
    let checkpoint = "runs/cut/checkpoints/step-0000003/state.json";
    assert!(place.path(checkpoint).exists());
}

#[cfg(unix)]
#[test]
fn a_run_whose_terminal_goes_away_is_saved_as_after_an_interrupt() {
    let place = TestFolder::new();
    let more = ["--steps", "600", "--json", "--name", "a"];
    let args = with_settings(&["train", "induction-heads"], TINY, &more);
    for signal in ["HUP", "TERM"] {
        let ran = signal_at(place.command(&args), &args, "\"step\":5,", signal);
        ran.fails(130, &["interrupted after step", "--resume runs/a"]);
        fs::remove_dir_all(place.path("runs")).unwrap();
    }
}

/// The line that is left in the bar's place.
#[cfg(target_os = "linux")]
#[test]
fn a_run_that_is_interrupted_on_a_terminal_says_how_far_it_came() {
    let place = TestFolder::new();
    // Hardly a step at which an interrupt is heard is one that was shown.
    let rare = ["--set", "train.log_every=100"];
    let long = [&rare[..], &["--steps", "100000", "--name", "a"]].concat();
    let args = with_settings(&["train", "induction-heads"], TINY, &long);
    let (main, side) = crate::support::terminal();
    let mut command = place.command(&args);
    hear_signals(&mut command);
    command.stdout(Stdio::null()).stderr(side);
    let mut child = command
        .env("TERM", "xterm")
        .spawn()
        .expect("the command starts");
    drop(command);
    let mut drawn = BufReader::new(main).split(b'\r').map_while(Result::ok);
    let mut drawn = drawn
        .by_ref()
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(drawn.any(|text| text.contains("/100000  loss")));
    send("INT", &child);
    let told: String = drawn.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let number_after = |words: &str| -> u64 {
        let after = told
            .split(words)
            .nth(1)
            .unwrap_or_else(|| panic!("{words} is not in {told}"));
        let end = after.find(|c: char| !c.is_ascii_digit());
        after[..end.unwrap()].parse().unwrap()
    };
    let step = number_after("interrupted after step ");
    assert_eq!(number_after("S6: step "), step, "{told}");
    assert!(step < 100_000);
}

/// Both streams go to a reader that has stopped reading.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_is_heard_by_a_run_that_waits_for_its_reader() {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    for signal in ["INT", "TERM"] {
        let place = TestFolder::new();
        let (reader, mut writer) = std::io::pipe().unwrap();
        // SAFETY: it asks for the size of a pipe that is open.
        let room = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
        writer.write_all(&vec![b'x'; room as usize]).unwrap();
        let args = with_settings(
            &["train", "induction-heads"],
            TINY,
            &["--json", "--name", "a"],
        );
        let mut command = place.command(&args);
        hear_signals(&mut command);
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().expect("the command starts");
        while !place.path("runs/a/config.toml").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        drop(reader);
    }
}

/// As under nohup, which starts a command with the signal ignored.
#[cfg(target_os = "linux")]
#[test]
fn a_run_survives_the_signals_that_were_ignored_when_it_began() {
    let place = TestFolder::new();
    let more = ["--steps", "300", "--json", "--name", "a"];
    let args = with_settings(&["train", "induction-heads"], TINY, &more);
    let command = place.command_after("trap '' HUP", &args);
    let ran = signal_at(command, &args, "\"step\":5,", "HUP").succeeds();
    assert_eq!(ran.stderr, "");
    assert!(place.path("runs/a/report.html").exists());
}

#[test]
fn a_finished_run_is_tested_and_reported_again() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let weights = || files(&place.path("runs/a/model"));
    let before = weights();
    fs::remove_file(place.path("runs/a/report.html")).unwrap();
    let ran = place.run(&["train", "--resume", "a"]).succeeds();
    assert!(ran.stdout.contains("Trained at length 16"));
    assert!(place.path("runs/a/report.html").exists());
    assert!(before == weights());
}

#[test]
fn a_finished_run_goes_on_when_given_more_steps() {
    let place = TestFolder::new();
    let constant = ["--quiet", "--set", "train.schedule=constant"];
    place
        .train(&[&constant[..], &["--name", "a"]].concat())
        .succeeds();
    place
        .train(&[&constant[..], &["--name", "b", "--steps", "6"]].concat())
        .succeeds();
    place
        .run(&["train", "--quiet", "--resume", "a", "--steps", "6"])
        .succeeds();
    for file in [
        "config.toml",
        "model/model.safetensors",
        "twin/model/model.safetensors",
    ] {
        assert_same_file(
            &place.path(&format!("runs/a/{file}")),
            &place.path(&format!("runs/b/{file}")),
        );
    }
}

#[test]
fn a_model_that_was_saved_in_part_is_saved_again() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let weights = place.path("runs/a/model/model.safetensors");
    let before = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    place.run(&["train", "--quiet", "--resume", "a"]).succeeds();
    assert!(before == fs::read(&weights).unwrap());
}
