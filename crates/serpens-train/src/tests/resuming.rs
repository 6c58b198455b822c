use std::sync::Arc;

use serpens_data::Prefetch;

use super::*;
use crate::{Error, JsonLines};

/// Twenty steps at once are ten, a resumption, and ten: parameters, moments, losses.
fn assert_resumes_to_the_bit(config: TrainConfig, source: impl Fn() -> Box<dyn Source>) {
    let mut whole = trainer_on(
        source(),
        TrainConfig {
            steps: 20,
            ..config.clone()
        },
    );
    let told = run(&mut whole, None).unwrap().figures();
    let run_dir = tempfile::tempdir().unwrap();
    let mut first = trainer_on(
        source(),
        TrainConfig {
            steps: 10,
            ..config.clone()
        },
    );
    let mut parts = run(&mut first, Some(run_dir.path())).unwrap().figures();
    drop(first);
    let mut second = Trainer::resume(NextToken, run_dir.path(), source(), Some(20)).unwrap();
    assert_eq!(second.step(), 10);
    parts.extend(run(&mut second, Some(run_dir.path())).unwrap().figures());
    assert_eq!(parts, told);
    assert_eq!(bits(second.model()), bits(whole.model()));
    assert_eq!(moment_bits(&second), moment_bits(&whole));
}

#[test]
fn a_resumed_run_is_the_unbroken_one_to_the_bit() {
    assert_resumes_to_the_bit(settings(0), || Box::new(task()));
}

#[test]
fn a_resumed_run_with_accumulation_and_a_prefetched_source_is_the_unbroken_one_to_the_bit() {
    let config = TrainConfig {
        accumulation: 2,
        warmup: crate::Phase::Steps(15),
        ..settings(0)
    };
    assert_resumes_to_the_bit(config, || {
        Box::new(Prefetch::new(Arc::new(task()), 2).unwrap())
    });
}

#[test]
fn averages_go_on_across_a_kill_between_two_reports() {
    let config = TrainConfig {
        log_every: 4,
        checkpoint_every: 6,
        ..settings(12)
    };
    let unbroken = run(&mut trainer(config.clone()), None).unwrap().figures();
    let run_dir = tempfile::tempdir().unwrap();
    // As after a kill in step 7: the checkpoint of step 6 was taken in the middle of an interval.
    let mut killed = trainer(config);
    for _ in 0..6 {
        if killed.step() == 4 {
            killed.state.interval = Default::default(); // told of
        }
        killed.take_step(&ON).unwrap();
    }
    killed.save(run_dir.path()).unwrap();
    let mut resumed = Trainer::resume(NextToken, run_dir.path(), Box::new(task()), None).unwrap();
    let told = run(&mut resumed, None).unwrap().figures();
    assert_eq!(told, unbroken[1..]);
}

#[test]
fn a_file_of_metrics_has_every_step_once() {
    let run_dir = tempfile::tempdir().unwrap();
    let path = run_dir.path().join("metrics.jsonl");
    let observed = |trainer: &mut Trainer| {
        let mut lines = JsonLines::open(&path, trainer.step()).unwrap();
        let mut evaluate = |_: &MambaLm| {
            Ok(Evaluation {
                values: vec![("x".into(), 0.5)],
            })
        };
        trainer
            .run(Run {
                dir: Some(run_dir.path()),
                observer: &mut lines,
                stop: &ON,
                evaluate: Some(&mut evaluate),
            })
            .unwrap()
    };
    observed(&mut trainer(settings(4)));
    // A sitting that was killed in step 7, in the middle of a line.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "{\"step\":5,\"loss\":1.0}\n{\"step\":6,\"lo").unwrap();
    let mut resumed =
        Trainer::resume(NextToken, run_dir.path(), Box::new(task()), Some(6)).unwrap();
    observed(&mut resumed);
    let mut finished = Trainer::resume(NextToken, run_dir.path(), Box::new(task()), None).unwrap();
    let outcome = observed(&mut finished);
    assert_eq!(
        outcome.evaluation.unwrap().values[0].1,
        0.5,
        "kept in the checkpoint"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps = |key: &str| -> Vec<u64> {
        let with = lines.iter().filter(|line| line.get(key).is_some());
        with.map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("loss"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(steps("evaluation"), [4, 6]);
}

#[test]
fn another_source_than_the_checkpoints_is_refused() {
    let run_dir = tempfile::tempdir().unwrap();
    run(&mut trainer(settings(1)), Some(run_dir.path())).unwrap();
    let mut config = InductionHeadsConfig {
        vocab: VOCAB,
        batch: 4,
        lengths: vec![16, 32],
        seed: 3,
    };
    config.seed += 1;
    let other = Box::new(InductionHeads::new(config).unwrap());
    let error = Trainer::resume(NextToken, run_dir.path(), other, None)
        .err()
        .unwrap();
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    let text = error.to_string();
    for part in ["seed 3", "seed 4", "use the same settings"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}
