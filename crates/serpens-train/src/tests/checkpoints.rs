use std::fs;
use std::path::PathBuf;

use serpens_formats::Verify;

use super::*;
use crate::{CHECKPOINTS_DIR, Damage, Error, newest_checkpoint};

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
    Trainer::resume(NextToken, run_dir, Box::new(task()), Some(steps))
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

#[test]
fn a_truncated_file_of_the_newest_checkpoint_is_named() {
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.json",
    ] {
        let (run_dir, _) = six_steps();
        let path = newest(run_dir.path()).join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - bytes.len() / 3]).unwrap();
        let text = resume(run_dir.path(), 7).err().unwrap().to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && !text.contains('\n'),
            "{text}"
        );
        let advice = "remove its folder to resume from an earlier one";
        assert!(file != "state.json" || text.ends_with(advice), "{text}");
        // As the message says: without it, the run resumes from an earlier one.
        fs::remove_dir_all(newest(run_dir.path())).unwrap();
        assert_eq!(resume(run_dir.path(), 7).unwrap().step(), 5);
    }
}

#[test]
fn a_missing_file_is_named() {
    let (run_dir, _) = six_steps();
    let path = newest(run_dir.path()).join("state.json");
    fs::remove_file(&path).unwrap();
    let error = resume(run_dir.path(), 7).err().unwrap();
    assert!(
        matches!(
            &error,
            Error::Format(serpens_formats::Error::Io { action: "read", path: p, source })
                if *p == path && source.kind() == std::io::ErrorKind::NotFound
        ),
        "{error}"
    );
}

#[test]
fn moments_of_another_model_are_refused() {
    let (run_dir, trainer) = six_steps();
    let path = newest(run_dir.path()).join("optimizer.safetensors");
    let mut state = trainer.engine.learner.optimizer.state();
    state.pop();
    serpens_formats::safetensors::write_tensors(&path, &state).unwrap();
    let error = resume(run_dir.path(), 7).err().unwrap();
    assert!(
        matches!(
            &error,
            Error::Damaged { path: p, source: Damage::MissingMoments { .. } } if *p == path
        ),
        "{error}"
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones_intact() {
    let (run_dir, _) = six_steps();
    let in_the_way = run_dir.path().join(CHECKPOINTS_DIR).join("step-0000007");
    let mut resumed = resume(run_dir.path(), 7).unwrap();
    fs::write(&in_the_way, "a file where the folder should be").unwrap();
    let error = run(&mut resumed, Some(run_dir.path())).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(names(run_dir.path()), ["step-0000005", "step-0000006"]);
    assert_eq!(resume(run_dir.path(), 7).unwrap().step(), 6);
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
