use std::fs;
use std::path::PathBuf;

use serpens_formats::Verify;

use super::*;
use crate::{CHECKPOINTS_DIR, Changes, Damage, Error, Lock, newest_checkpoint};

fn names(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_dir.join(CHECKPOINTS_DIR)).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A run of 6 steps with a checkpoint after each, of which the last two are kept.
fn six_steps() -> (tempfile::TempDir, Trainer) {
    let run_dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(TrainConfig {
        checkpoint_every: 1,
        ..settings(6)
    });
    let heard = run(&mut trainer, Some(run_dir.path())).unwrap();
    assert_eq!(heard.checkpoints, [1, 2, 3, 4, 5, 6]);
    (run_dir, trainer)
}

fn resume(run_dir: &Path, steps: u64) -> Result<Trainer> {
    Trainer::resume(
        NextToken,
        run_dir,
        Box::new(task()),
        Changes::steps(steps),
        None,
    )
}

fn load(step: u64, dir: &Path) -> Result<()> {
    crate::checkpoint::load(step, dir, &NextToken, Verify::Digests).map(drop)
}

fn newest(run_dir: &Path) -> PathBuf {
    newest_checkpoint(run_dir).unwrap().unwrap().1
}

#[test]
fn the_last_checkpoints_are_kept_and_hold_the_model() {
    let (run_dir, trainer) = six_steps();
    assert_eq!(names(run_dir.path()), ["step-0000005", "step-0000006"]);
    let model =
        serpens_nn::checkpoint::load(&newest(run_dir.path()), Device::cpu(), Verify::Digests)
            .unwrap();
    assert_eq!(bits(&model), bits(trainer.model()));
}

#[test]
fn a_checkpoint_says_where_in_which_source_it_stands() {
    let (run_dir, _) = six_steps();
    let text = fs::read_to_string(newest(run_dir.path()).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        state["position"],
        serde_json::json!({ "source": task().description(), "batches": 6 })
    );
}

#[test]
fn what_a_killed_run_left_unfinished_is_ignored_and_then_removed() {
    let (run_dir, _) = six_steps();
    let left = run_dir
        .path()
        .join(CHECKPOINTS_DIR)
        .join(".unfinished-step-0000009");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("state.json"), "{").unwrap();
    let mut resumed = resume(run_dir.path(), 7).unwrap();
    assert_eq!(resumed.step(), 6);
    run(&mut resumed, Some(run_dir.path())).unwrap();
    assert_eq!(names(run_dir.path()), ["step-0000006", "step-0000007"]);
}

const FILES: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
];

/// What is told where a run is resumed whose newest checkpoint is damaged.
fn warned(run_dir: &Path) -> String {
    let mut resumed = resume(run_dir, 7).unwrap();
    assert_eq!(resumed.step(), 5);
    let heard = run(&mut resumed, Some(run_dir)).unwrap();
    let [warning] = &heard.warnings[..] else {
        panic!("{:?}", heard.warnings);
    };
    let kept = ["step-0000006", "step-0000006.damaged-1", "step-0000007"];
    assert_eq!(names(run_dir), kept, "{warning}");
    assert!(warning.contains("step-0000006.damaged-1 is damaged"));
    warning.clone()
}

#[test]
fn a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so() {
    for file in FILES {
        let cut = |bytes: Vec<u8>| bytes[..bytes.len() - bytes.len() / 3].to_vec();
        for damage in [Some(cut as fn(Vec<u8>) -> Vec<u8>), None] {
            let (run_dir, _) = six_steps();
            let path = newest(run_dir.path()).join(file);
            match damage {
                Some(damage) => fs::write(&path, damage(fs::read(&path).unwrap())).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let text = warned(run_dir.path());
            let named = [path.to_str().unwrap(), "another checkpoint"];
            assert!(named.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }
}

/// A file that the system does not let be read, whoever asks.
#[cfg(unix)]
fn make_unreadable(path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_read_now_is_neither_passed_over_nor_removed() {
    for file in FILES {
        let (run_dir, _) = six_steps();
        let path = newest(run_dir.path()).join(file);
        let good = fs::read(&path).unwrap();
        make_unreadable(&path);
        let error = resume(run_dir.path(), 7).err().unwrap();
        assert!(!error.is_damage(), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
        assert_eq!(resume(run_dir.path(), 7).unwrap().step(), 6);
    }
    let (run_dir, _) = six_steps();
    let path = run_dir.path().join(CHECKPOINTS_DIR).join("step-0000008");
    fs::write(&path, "").unwrap();
    make_unreadable(&path);
    let error = resume(run_dir.path(), 7).err().unwrap();
    assert!(error.to_string().contains("step-0000008"), "{error}");
}

#[test]
fn what_was_passed_over_is_kept_however_often_it_is_damaged() {
    let (run_dir, _) = six_steps();
    let state = || newest(run_dir.path()).join("state.json");
    for aside in ["damaged-1", "damaged-2"] {
        fs::write(state(), "{").unwrap();
        run(
            &mut resume(run_dir.path(), 6).unwrap(),
            Some(run_dir.path()),
        )
        .unwrap();
        assert!(state().parent().unwrap().with_extension(aside).is_dir());
    }
    let left = |name: &String| name.contains("damaged");
    run(
        &mut resume(run_dir.path(), 9).unwrap(),
        Some(run_dir.path()),
    )
    .unwrap();
    assert_eq!(
        names(run_dir.path())
            .iter()
            .filter(|name| left(name))
            .count(),
        2
    );
}

#[test]
fn a_file_that_has_grown_beyond_all_measure_is_not_read() {
    let (run_dir, _) = six_steps();
    let path = newest(run_dir.path()).join("config.json");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(serpens_core::files::MOST_WHOLE + 1).unwrap();
    let error = load(6, path.parent().unwrap()).err().unwrap();
    assert!(error.to_string().contains("more than 64 MiB"), "{error}");
    assert_eq!(resume(run_dir.path(), 7).unwrap().step(), 5);
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let (run_dir, whole) = six_steps();
    let dir = newest(run_dir.path());
    for file in FILES {
        let path = dir.join(file);
        let good = fs::read(&path).unwrap();
        let step = (good.len() / 40).max(1);
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            let resumed = resume(run_dir.path(), 7).unwrap();
            if resumed.step() == 6 {
                assert_eq!(bits(resumed.model()), bits(whole.model()), "{file}, {at}");
                assert_eq!(moment_bits(&resumed), moment_bits(&whole), "{file}, {at}");
                let saved = resumed.state.saved_as();
                assert_eq!(saved, whole.state.saved_as(), "{file}, {at}");
            }
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn where_no_checkpoint_is_whole_the_newest_is_named() {
    let (run_dir, _) = six_steps();
    for name in names(run_dir.path()) {
        let path = run_dir.path().join(CHECKPOINTS_DIR).join(name);
        fs::write(path.join("state.json"), "{").unwrap();
    }
    let path = newest(run_dir.path()).join("state.json");
    let error = resume(run_dir.path(), 7).err().unwrap();
    assert!(
        matches!(&error, Error::Damaged { path: p, source: Damage::State(_) } if *p == path),
        "{error}"
    );
}

#[test]
fn moments_of_another_model_and_files_of_another_checkpoint_are_damage() {
    let (run_dir, trainer) = six_steps();
    let dir = newest(run_dir.path());
    let path = dir.join("optimizer.safetensors");
    let mut state = trainer.engine.learner.optimizer.state();
    state.pop();
    serpens_formats::safetensors::write_tensors(&path, &state).unwrap();
    let error = load(6, &dir).err().unwrap();
    assert!(
        matches!(&error, Error::Damaged { path: p, source: Damage::Digest { .. } } if *p == path),
        "{error}"
    );
    // Of a version without digests.
    crate::checkpoint::write_state(&dir, &trainer.state).unwrap();
    let error = load(6, &dir).err().unwrap();
    assert!(
        matches!(
            &error,
            Error::Damaged { path: p, source: Damage::WrongMoment { .. } } if *p == path
        ),
        "{error}"
    );
    // Digests are those of the folder: a whole file of the checkpoint before is foreign here.
    let before = run_dir.path().join(CHECKPOINTS_DIR).join("step-0000005");
    fs::copy(
        before.join("model.safetensors"),
        dir.join("model.safetensors"),
    )
    .unwrap();
    let error = load(6, &dir).err().unwrap();
    assert!(
        matches!(
            &error,
            Error::Damaged {
                source: Damage::Digest { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_cannot_be_removed_and_what_lies_in_the_way_is_told_and_stops_nothing() {
    let (run_dir, _) = six_steps();
    let checkpoints = run_dir.path().join(CHECKPOINTS_DIR);
    fs::write(
        checkpoints.join("step-0000007"),
        "a file where the folder should be",
    )
    .unwrap();
    fs::write(checkpoints.join(".unfinished-notes"), "a stray file").unwrap();
    fs::write(checkpoints.join("step-of-mine"), "another").unwrap();
    /// Keeps the checkpoint of step 6 from being removed, once the run has begun.
    struct Hindering(Heard, PathBuf);
    impl Observer for Hindering {
        fn event(&mut self, event: &Event<'_>) -> Result<()> {
            if let Event::Stepped(_) = event {
                let hindrance = self.1.join(".unfinished-removed-step-0000006/hindrance");
                fs::create_dir_all(hindrance).unwrap();
            }
            self.0.event(event)
        }
    }
    let mut observer = Hindering(Heard::default(), checkpoints);
    let mut resumed = resume(run_dir.path(), 8).unwrap();
    resumed
        .run(Run {
            dir: Some(run_dir.path()),
            observer: &mut observer,
            stop: &ON,
            evaluate: None,
        })
        .unwrap();
    let Hindering(heard, _) = observer;
    assert_eq!(heard.checkpoints, [7, 8]);
    let [warning] = &heard.warnings[..] else {
        panic!("{:?}", heard.warnings);
    };
    assert!(
        warning.contains("cannot remove") && warning.contains("step-0000006"),
        "{warning}"
    );
    let expected = [
        ".unfinished-removed-step-0000006",
        "step-0000006",
        "step-0000007",
        "step-0000008",
        "step-of-mine",
    ];
    assert_eq!(names(run_dir.path()), expected);
    run(
        &mut resume(run_dir.path(), 9).unwrap(),
        Some(run_dir.path()),
    )
    .unwrap();
    assert_eq!(
        names(run_dir.path()),
        ["step-0000008", "step-0000009", "step-of-mine"]
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones_intact() {
    let (run_dir, _) = six_steps();
    let mut resumed = resume(run_dir.path(), 7).unwrap();
    /// Puts a file where the unfinished checkpoint would be made, once the run has begun.
    struct InTheWay(PathBuf);
    impl Observer for InTheWay {
        fn event(&mut self, event: &Event<'_>) -> Result<()> {
            if let Event::Stepped(_) = event {
                fs::write(&self.0, "a file where the folder should be").unwrap();
            }
            Ok(())
        }
    }
    let checkpoints = run_dir.path().join(CHECKPOINTS_DIR);
    let error = resumed.run(Run {
        dir: Some(run_dir.path()),
        observer: &mut InTheWay(checkpoints.join(".unfinished-step-0000007")),
        stop: &ON,
        evaluate: None,
    });
    assert!(error.is_err());
    assert_eq!(resume(run_dir.path(), 7).unwrap().step(), 6);
    run(
        &mut resume(run_dir.path(), 7).unwrap(),
        Some(run_dir.path()),
    )
    .unwrap();
    assert_eq!(names(run_dir.path()), ["step-0000006", "step-0000007"]);
}

#[test]
fn a_folder_is_held_by_one_and_its_holder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let held = Lock::take(dir.path()).unwrap();
    let error = Lock::take(dir.path()).err().unwrap();
    let me = std::process::id();
    assert!(
        matches!(&error, Error::InUse { path, holder } if path == dir.path() && *holder == Some(me)),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("process {me}")),
        "{error}"
    );
    drop(held);
    Lock::take(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_lock_is_a_file_of_its_own_and_little_of_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, other) = (dir.path().join(Lock::FILE), dir.path().join("other"));
    fs::write(&other, "of the user").unwrap();
    std::os::unix::fs::symlink(&other, &lock).unwrap();
    assert!(matches!(Lock::take(dir.path()), Err(Error::Io { .. })));
    assert_eq!(fs::read_to_string(&other).unwrap(), "of the user");
    fs::remove_file(&lock).unwrap();
    let held = Lock::take(dir.path()).unwrap();
    fs::File::options()
        .write(true)
        .open(&lock)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let error = Lock::take(dir.path()).err().unwrap();
    assert!(
        matches!(error, Error::InUse { holder: None, .. }),
        "{error}"
    );
    drop(held);
}

#[test]
fn nothing_is_saved_in_a_folder_that_is_not_the_one_that_was_taken() {
    let above = tempfile::tempdir().unwrap();
    let (dir, moved) = (above.path().join("a"), above.path().join("moved"));
    for another in [false, true] {
        fs::create_dir(&dir).unwrap();
        let held = Lock::take(&dir).unwrap();
        held.check().unwrap();
        fs::rename(&dir, &moved).unwrap();
        let other = another.then(|| {
            fs::create_dir(&dir).unwrap();
            Lock::take(&dir).unwrap()
        });
        let mut observer = &held;
        let ended = trainer(settings(2)).run(Run {
            dir: Some(&dir),
            observer: &mut observer,
            stop: &ON,
            evaluate: None,
        });
        assert!(
            matches!(&ended, Err(Error::Moved(path)) if *path == dir),
            "{ended:?}"
        );
        assert_eq!(dir.exists(), another);
        assert!(!dir.join(CHECKPOINTS_DIR).exists());
        drop(other);
        fs::remove_dir_all(&moved).unwrap();
    }
}

#[test]
fn a_new_run_does_not_mix_its_checkpoints_with_those_of_an_older_one() {
    let (run_dir, _) = six_steps();
    let error = run(&mut trainer(settings(2)), Some(run_dir.path()))
        .err()
        .unwrap();
    assert!(matches!(error, Error::RunExists { .. }), "{error}");
    assert_eq!(names(run_dir.path()), ["step-0000005", "step-0000006"]);
}

#[test]
fn nothing_to_resume_is_an_error() {
    let run_dir = tempfile::tempdir().unwrap();
    let error = resume(run_dir.path(), 7).err().unwrap();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");
}
