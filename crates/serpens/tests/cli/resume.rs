//! Going on with a run: as it began, by one process, and with what is whole.

use std::fs;
use std::process::Stdio;

use crate::support::{Ran, TINY, TestFolder, assert_same_file, files, started, with_settings};

fn edit(place: &TestFolder, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(place.path(file)).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    place.write(file, text.replacen(from, to, 1));
}

#[test]
fn settings_that_are_not_those_of_the_run_are_refused_by_name() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let resume = || place.run(&["train", "--quiet", "--resume", "a"]);
    let (settings, whole) = (
        "runs/a/config.toml",
        files(&place.path("runs/a/checkpoints")),
    );
    let good = fs::read_to_string(place.path(settings)).unwrap();
    for (from, to, words) in [
        (
            "log_every = 1",
            "log_every = 3",
            ["train.log_every is 3", "with 1"],
        ),
        (
            "lr = 0.012",
            "lr = 0.5",
            [
                "train.optimizer.lr is 0.5",
                "with 0.012: set it back, or begin another run; only the steps (--steps) and the learning rate (--lr)",
            ],
        ),
        (
            "d_model = 8",
            "d_model = 16",
            ["model.d_model is 16", "with 8"],
        ),
        ("vocab = 16", "vocab = 12", ["task.vocab is 12", "with 16"]),
        ("seed = 0", "seed = 1", ["seed is 1", "with 0"]),
        ("steps = 4", "steps = 3", ["train.steps = 3", "taken more"]),
    ] {
        edit(&place, settings, from, to);
        let edited = fs::read_to_string(place.path(settings)).unwrap();
        resume().is_refused(2, &words);
        assert_eq!(fs::read_to_string(place.path(settings)).unwrap(), edited);
        place.write(settings, &good);
    }
    place
        .run(&["train", "--quiet", "--resume", "a", "--steps", "3"])
        .is_refused(2, &["train.steps = 3", "taken more"]);
    assert!(whole == files(&place.path("runs/a/checkpoints")));
    // How it is tested is no matter of its training.
    edit(&place, settings, "samples = 4", "samples = 6");
    resume().succeeds();
}

#[test]
fn steps_and_the_learning_rate_change_where_that_is_asked_for() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let other = ["--steps", "6", "--lr", "0.002"];
    place
        .run(&[&["train", "--quiet", "--resume", "a"], &other[..]].concat())
        .succeeds();
    let settings = fs::read_to_string(place.path("runs/a/config.toml")).unwrap();
    assert!(settings.contains("lr = 0.002") && settings.contains("steps = 6"));
    let weights = || files(&place.path("runs/a/model"));
    let before = weights();
    place.run(&["train", "--quiet", "--resume", "a"]).succeeds();
    assert!(before == weights());
    let state = place.json("runs/a/twin/checkpoints/step-0000006/state.json");
    assert_eq!(state["config"]["optimizer"]["lr"], 0.002);
}

#[test]
fn a_rate_with_which_no_step_is_taken_is_refused() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let before = files(&place.path("runs/a"));
    place
        .run(&["train", "--quiet", "--resume", "a", "--lr", "0.5"])
        .is_refused(2, &["train.optimizer.lr = 0.5", "no step left"]);
    // The twin alone has steps to take.
    fs::remove_dir_all(place.path("runs/a/twin")).unwrap();
    place
        .run(&["train", "--quiet", "--resume", "a", "--lr", "0.5"])
        .is_refused(2, &["train.optimizer.lr = 0.5", "no step left"]);
    let mut after = files(&place.path("runs/a"));
    after.retain(|(path, _)| !path.ends_with(".lock"));
    assert!(after.iter().all(|file| before.contains(file)));
}

#[test]
fn what_a_run_has_lost_is_told_where_it_goes_on_without() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let resume = |warnings: usize, words: &[&str]| {
        let ran = place.run(&["train", "--quiet", "--resume", "a"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), warnings, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{}", ran.stderr);
        }
    };
    let metrics = "runs/a/metrics.jsonl";
    edit(&place, metrics, "\"step\":2,", "garbage");
    resume(1, &["warning: ", metrics, "1 broken line"]);
    fs::remove_file(place.path(metrics)).unwrap();
    let report = || fs::read(place.path("runs/a/report.html")).unwrap();
    let before = report();
    let curves = "begin with those to come\nwarning: the report of runs/a stays as it was";
    resume(2, &["warning: ", metrics, "no line of the steps", curves]);
    assert!(before == report());
    for lost in ["twin/model", "twin/checkpoints"] {
        fs::remove_dir_all(place.path("runs/a").join(lost)).unwrap();
    }
    fs::write(place.path(metrics), "{\"step\":1}\n").unwrap();
    let lost = "runs/a/twin/checkpoints holds no checkpoint";
    resume(2, &["warning: ", lost, "stays as it was"]);
}

#[test]
fn where_the_best_checkpoint_is_lost_the_last_one_is_taken_and_that_is_told() {
    let place = TestFolder::new();
    let best = ["--quiet", "--name", "a", "--set", "train.best.more=true"];
    place.train_text(&best).succeeds();
    let best = place.json("runs/a/checkpoints/step-0000003/state.json")["best"]["step"].clone();
    assert_eq!(best, 2, "the model gets better, and more is worse");
    for lost in ["model", "checkpoints/step-0000002"] {
        fs::remove_dir_all(place.path("runs/a").join(lost)).unwrap();
    }
    let ran = place.run(&["train", "--quiet", "--resume", "a"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("warning: ") && ran.stderr.contains("step-0000002"));
    let last = place.path("runs/a/checkpoints/step-0000003/model.safetensors");
    assert_same_file(&place.path("runs/a/model/model.safetensors"), &last);
}

#[test]
fn a_run_whose_folder_is_moved_ends_and_goes_on_where_it_is() {
    let place = TestFolder::new();
    // A checkpoint comes only after more lines than the pipe holds: none is being written when the folder is moved.
    let rare = ["--set", "train.checkpoint_every=1000", "--steps", "100000"];
    let long = [&rare[..], &["--json", "--name", "a"]].concat();
    let args = with_settings(&["train", "induction-heads"], TINY, &long);
    let mut command = place.command(&args);
    let (child, lines) = started(command.stderr(Stdio::piped()), "\"checkpointed\"");
    fs::rename(place.path("runs/a"), place.path("moved")).unwrap();
    lines.for_each(drop);
    let ran = Ran::new(&args, child.wait_with_output().expect("the command ends"));
    ran.fails(1, &["runs/a", "moved or removed"]);
    assert!(!place.path("runs/a").exists());
    place
        .run(&["train", "--quiet", "--resume", "moved", "--steps", "1"])
        .is_refused(2, &["train.steps = 1"]);
}

#[test]
fn a_model_without_the_checkpoints_that_say_how_it_was_trained_is_not_gone_on_with() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    fs::remove_dir_all(place.path("runs/a/checkpoints")).unwrap();
    for more in [&[][..], &["--steps", "9"]] {
        place
            .run(&[&["train", "--resume", "a"], more].concat())
            .is_refused(1, &["runs/a/checkpoints", "no checkpoint"]);
    }
}

#[test]
fn a_damaged_checkpoint_costs_its_steps_and_is_told() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let resume = || place.run(&["train", "--quiet", "--resume", "a"]);
    let model = place.path("runs/a/model");
    let before = files(&model);
    let checkpoint = place.path("runs/a/checkpoints/step-0000004");
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.json",
    ] {
        for damage in ["cut", "another's", "none"] {
            let path = checkpoint.join(file);
            let bytes = fs::read(&path).unwrap();
            match damage {
                "cut" => fs::write(&path, &bytes[..bytes.len() - 10]).unwrap(),
                "none" => fs::remove_file(&path).unwrap(),
                _ => {
                    let twins = path.to_str().unwrap().replace("/a/", "/a/twin/");
                    fs::copy(twins, &path).map(drop).unwrap();
                }
            }
            fs::remove_dir_all(&model).unwrap();
            let ran = resume();
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            // Another's state is whole by itself: the files beside it are not those it was written with.
            let foreign = (file, damage) == ("state.json", "another's");
            let named = if foreign { "digest" } else { file };
            let words = ["warning: ", "step-0000004", named, "another checkpoint"];
            for word in words {
                assert!(
                    ran.stderr.contains(word),
                    "{word:?} is not in: {}",
                    ran.stderr
                );
            }
            assert!(before == files(&model), "{file}, {damage}");
        }
    }
    for step in ["step-0000002", "step-0000004"] {
        place.write(&format!("runs/a/checkpoints/{step}/state.json"), "{");
    }
    resume().is_refused(1, &["step-0000004/state.json"]);
}

#[test]
fn a_checkpoint_is_taken_as_it_is_where_that_is_asked_for() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let path = place.path(&format!("runs/a/checkpoints/step-0000004/{file}"));
        let mut bytes = fs::read(&path).unwrap();
        let place_of = |what: &str| String::from_utf8_lossy(&bytes).find(what).unwrap();
        let at = match file {
            "state.json" => place_of("\"seconds\"") + 11,
            _ => bytes.len() - 4, // the lowest bits of a mantissa
        };
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let last = |folder: &str| {
        let bytes = fs::read(place.path(&format!("runs/a/{folder}/model.safetensors"))).unwrap();
        bytes[bytes.len() - 32..].to_vec() // values of one tensor
    };
    let (whole, damaged) = (last("model"), last("checkpoints/step-0000004"));
    assert_ne!(whole, damaged);
    fs::remove_dir_all(place.path("runs/a/model")).unwrap();
    let resume = ["train", "--quiet", "--resume", "a", "--no-verify"];
    let ran = place.run(&resume);
    assert!(
        ran.code == Some(0) && ran.stderr.is_empty(),
        "{}",
        ran.stderr
    );
    assert_eq!(last("model"), damaged);
    let aside = place.path("runs/a/checkpoints/step-0000004.damaged-1");
    assert!(!aside.exists());
}

#[cfg(unix)]
#[test]
fn one_process_trains_in_a_folder_and_is_named() {
    let place = TestFolder::new();
    let long = ["--steps", "100000", "--json", "--name", "a"];
    let args = with_settings(&["train", "induction-heads"], TINY, &long);
    let mut command = place.command(&args);
    let (mut child, _lines) = started(command.stderr(Stdio::null()), "\"checkpointed\"");
    let metrics = place.path("runs/a/metrics.jsonl");
    let holder = format!("process {}", child.id());
    let resume = ["train", "--quiet", "--resume", "a"];
    place.run(&resume).is_refused(1, &["runs/a", &holder]);
    let newest = fs::read_dir(place.path("runs/a/checkpoints"))
        .unwrap()
        .count();
    assert!(newest > 0);
    // Who reads only is not kept out.
    let doctor = place.run(&["inspect", "--model", "runs/a", "--prompt", "1 2"]);
    doctor.fails(1, &["not finished"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let told = fs::read_to_string(&metrics).unwrap();
    assert!(told.lines().count() > 1);
    // The lock died with its holder: the run is refused for its steps only.
    place
        .run(&[&resume[..], &["--steps", "1"]].concat())
        .is_refused(2, &["train.steps = 1"]);
}

#[test]
fn a_name_is_free_until_its_run_has_begun() {
    let place = TestFolder::new();
    // As a run leaves it that is killed before its settings are written.
    fs::create_dir_all(place.path("runs/a")).unwrap();
    place.write("runs/a/.lock", "4194304");
    fs::create_dir(place.path("runs/a/tokenizer")).unwrap();
    place.write("runs/a/config.toml.4194304-0.tmp", "seed");
    place.train(&["--quiet", "--name", "a"]).succeeds();
    assert!(!place.path("runs/a/config.toml.4194304-0.tmp").exists());
    // What is left in a run that was killed later is removed when it goes on.
    let left = "runs/a/twin/model/config.json.4194304-7.tmp";
    place.write(left, "{");
    place.write("runs/a/notes.tmp", "of the user");
    place.run(&["train", "--quiet", "--resume", "a"]).succeeds();
    assert!(!place.path(left).exists() && place.path("runs/a/notes.tmp").exists());
    fs::create_dir_all(place.path("runs/b")).unwrap();
    place.write("runs/b/thesis.txt", "of the user");
    place
        .train(&["--name", "b"])
        .is_refused(2, &["b is there already"]);
}
