use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serpens_data::{Batch, Bounds, Numbers, Prefetch};
use serpens_formats::Verify;

use super::*;
use crate::{Damage, Error, JsonLines, Outcome, newest_checkpoint};

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
    let mut second = Trainer::resume(
        NextToken,
        run_dir.path(),
        source(),
        Changes::steps(20),
        None,
    )
    .unwrap();
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
        warmup: crate::Phase::Steps(5),
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
    let mut resumed = go_on_in(run_dir.path(), Changes::default());
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
    let mut resumed = go_on_in(run_dir.path(), Changes::steps(6));
    observed(&mut resumed);
    let mut finished = go_on_in(run_dir.path(), Changes::default());
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

/// The task's batches; an error or a set stop flag at one of them ends the run.
struct Ending {
    at: u64,
    how: Option<&'static AtomicBool>,
}

impl Source for Ending {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        match self.how {
            _ if index != self.at => {}
            Some(stop) => stop.store(true, Ordering::Relaxed),
            None => return Err(serpens_data::Error::other(std::fmt::Error)),
        }
        task().batch(index)
    }

    fn bounds(&self) -> Bounds {
        task().bounds()
    }

    fn description(&self) -> String {
        task().description()
    }
}

/// Trains on with metrics in the run's folder and an evaluation that tells of the model.
fn train_on(trainer: &mut Trainer, run_dir: &Path, stop: &AtomicBool) -> Result<Outcome> {
    let mut lines = JsonLines::open(&run_dir.join("metrics.jsonl"), trainer.step()).unwrap();
    assert!(lines.broken().is_none());
    let mut evaluate = |model: &MambaLm| {
        let sum: f32 = bits(model)[0].1.iter().map(|&b| f32::from_bits(b)).sum();
        Ok(Evaluation {
            values: vec![("sum".into(), sum.into())],
        })
    };
    trainer.run(Run {
        dir: Some(run_dir),
        observer: &mut lines,
        stop,
        evaluate: Some(&mut evaluate),
    })
}

/// The lines of metrics without what a clock or a memory measured.
fn lines(run_dir: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let measured = ["seconds", "seconds_left", "tokens_per_second", "memory"];
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut()
            .unwrap()
            .retain(|key, _| !measured.contains(&key.as_str()));
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn a_run_that_was_interrupted_or_killed_leaves_the_lines_of_an_unbroken_one() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let config = TrainConfig {
        accumulation: 2,
        log_every: 4,
        eval_every: 5,
        checkpoint_every: 3,
        ..settings(14)
    };
    let unbroken = tempfile::tempdir().unwrap();
    train_on(&mut trainer(config.clone()), unbroken.path(), &ON).unwrap();
    let expected = lines(unbroken.path());
    assert_eq!(expected.len(), 4 + 3, "steps 4, 8, 12, 14 and 5, 10, 14");
    for how in [Some(&STOP), None] {
        let run_dir = tempfile::tempdir().unwrap();
        // In the first step, between two of everything, at each kind of line, and in the last step.
        for at in [0, 7, 8, 9, 10, 16, 19, 26] {
            STOP.store(false, Ordering::Relaxed);
            let source = Box::new(Ending { at, how });
            let begun = newest_checkpoint(run_dir.path()).unwrap().is_some();
            let mut trainer = match begun {
                true => {
                    let dir = run_dir.path();
                    Trainer::resume(NextToken, dir, source, Changes::default(), None).unwrap()
                }
                false => trainer_on(source, config.clone()),
            };
            let outcome = train_on(&mut trainer, run_dir.path(), &STOP);
            match how {
                Some(_) => assert!(outcome.unwrap().interrupted, "at {at}"),
                None => assert!(outcome.is_err(), "at {at}"),
            }
        }
        let source = Box::new(task());
        let mut resumed =
            Trainer::resume(NextToken, run_dir.path(), source, Changes::default(), None).unwrap();
        train_on(&mut resumed, run_dir.path(), &ON).unwrap();
        assert_eq!(lines(run_dir.path()), expected);
    }
}

#[test]
fn a_broken_line_of_metrics_costs_that_line_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let text = b"{\"step\":1}\n{\"st\xffp\":2}\n\0\0\n{\"step\":3}\n{\"step\":4}\n{\"step\":3,";
    fs::write(&path, text).unwrap();
    let lines = JsonLines::open(&path, 3).unwrap();
    let error = lines.broken().unwrap();
    assert!(
        matches!(&error, Error::BrokenLines { path: p, count: 2 } if *p == path),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\"step\":1}\n{\"step\":3}\n"
    );
    let lines = JsonLines::open(&path, 3).unwrap();
    assert!(lines.broken().is_none() && lines.missing().is_none());
    // A hole of 100 MB, which is not held in memory, and a file without lines.
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    let lines = JsonLines::open(&path, 3).unwrap();
    let error = lines.broken().unwrap();
    assert!(
        matches!(error, Error::BrokenLines { count: 1599, .. }),
        "{error}"
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 22);
    fs::remove_file(&path).unwrap();
    let error = JsonLines::open(&path, 3).unwrap().missing().unwrap();
    assert!(matches!(&error, Error::NoLines(p) if *p == path), "{error}");
}

/// A run of four steps with a recipe, in a folder of its own.
struct Saved {
    run_dir: tempfile::TempDir,
    recipe: serde_json::Value,
    trainer: Trainer,
}

impl Saved {
    fn new() -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let recipe = serde_json::json!({ "seed": 1, "model": { "d_model": 16, "rate": 0.1_f32 } });
        let mut trainer = trainer(settings(4)).with_recipe(&recipe);
        run(&mut trainer, Some(run_dir.path())).unwrap();
        Self {
            run_dir,
            recipe,
            trainer,
        }
    }

    /// What goes on from it with these changes, where these settings are expected.
    fn with(
        &self,
        changes: Changes,
        config: &TrainConfig,
        recipe: &serde_json::Value,
    ) -> crate::Result<Trainer> {
        let (dir, source) = (self.run_dir.path(), Box::new(task()));
        Trainer::resume(NextToken, dir, source, changes, Some((config, recipe)))
    }
}

#[test]
fn a_run_goes_on_with_the_settings_that_it_was_saved_with() {
    let (saved, config) = (Saved::new(), settings(4));
    let (none, recipe) = (Changes::default(), &saved.recipe);
    saved.with(none, &config, recipe).unwrap();
    let field = |config: &TrainConfig, recipe: &serde_json::Value| match saved
        .with(none, config, recipe)
        .err()
        .unwrap()
    {
        Error::OtherSettings { field, saved, here } => (field, saved, here),
        other => panic!("{other}"),
    };
    let differs = |name: &str, saved: &str, here: &str| (name.into(), saved.into(), here.into());
    let mut edited = config.clone();
    edited.optimizer.lr = 0.5;
    let got = field(&edited, recipe);
    assert_eq!(got, differs("train.optimizer.lr", "0.003", "0.5"));
    edited.optimizer = OptimizerConfig::LION;
    let got = field(&edited, recipe);
    let kinds = differs("train.optimizer.kind", "\"adamw\"", "\"lion\"");
    assert_eq!(got, kinds);
    let mut wider = recipe.clone();
    wider["model"]["d_model"] = 32.into();
    let got = field(&config, &wider);
    assert_eq!(got, differs("model.d_model", "16", "32"));
}

#[test]
fn a_run_goes_on_with_more_steps_and_another_rate() {
    let (saved, config) = (Saved::new(), settings(4));
    let (none, recipe) = (Changes::default(), &saved.recipe);
    let fewer = saved.with(Changes::steps(3), &config, recipe).err();
    assert!(matches!(fewer, Some(Error::Config { field: "steps", .. })));
    let lr = Changes {
        lr: Some(0.5),
        ..none
    };
    let mut edited = config.clone();
    edited.optimizer.lr = 0.5;
    let no_step = saved.with(lr, &edited, recipe).err();
    assert!(
        matches!(no_step, Some(Error::Config { field: "optimizer.lr", value, .. }) if value == "0.5")
    );
    let same = Changes {
        lr: Some(3e-3),
        ..none
    };
    saved.with(same, &config, recipe).unwrap();

    edited.steps = 6;
    let changes = Changes {
        steps: Some(6),
        lr: Some(0.5),
        ..Changes::default()
    };
    let run_dir = saved.run_dir.path();
    let mut resumed = saved.with(changes, &edited, recipe).unwrap();
    resumed.keep_changes(run_dir).unwrap();
    saved.with(none, &edited, recipe).unwrap();
    let back = go_on_in(run_dir, none);
    assert_eq!(back.state.config, edited);
    assert_eq!(bits(back.model()), bits(saved.trainer.model()));
}

#[test]
fn a_run_of_any_optimiser_with_frozen_parameters_goes_on_to_the_bit() {
    let frozen = ["backbone.embeddings", "backbone.layers.*.mixer.A_log"];
    for optimizer in [
        OptimizerConfig::ADAMW,
        OptimizerConfig::SGD,
        OptimizerConfig::LION,
    ] {
        let config = |steps| TrainConfig {
            optimizer,
            freeze: frozen.map(str::to_owned).to_vec(),
            ..settings(steps)
        };
        let mut whole = trainer(config(6));
        let before = bits(whole.model());
        let heard = run(&mut whole, None).unwrap();
        assert!(heard.steps.len() == 6);
        let run_dir = tempfile::tempdir().unwrap();
        run(&mut trainer(config(3)), Some(run_dir.path())).unwrap();
        let mut resumed = go_on_in(run_dir.path(), Changes::steps(6));
        run(&mut resumed, Some(run_dir.path())).unwrap();
        assert_eq!(bits(whole.model()), bits(resumed.model()));
        assert_eq!(moment_bits(&whole), moment_bits(&resumed));
        for ((name, before), (_, after)) in before.iter().zip(bits(resumed.model())) {
            let is_frozen = name.contains("embeddings") || name.ends_with("A_log");
            assert_eq!(*before == after, is_frozen, "{name}");
        }
        let kept = moment_bits(&resumed);
        assert!(kept.iter().all(|(name, _)| !name.ends_with("A_log")));
    }
}

#[test]
fn another_rate_is_kept_by_the_checkpoint_that_is_gone_on_from() {
    let run_dir = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        checkpoint_every: 2,
        ..settings(4)
    };
    run(&mut trainer(config), Some(run_dir.path())).unwrap();
    let (_, newest) = newest_checkpoint(run_dir.path()).unwrap().unwrap();
    let damaged = fs::read(newest.join("model.safetensors")).unwrap();
    fs::write(
        newest.join("model.safetensors"),
        &damaged[..damaged.len() - 1],
    )
    .unwrap();
    let changes = Changes {
        lr: Some(0.5),
        ..Changes::default()
    };
    for kept_before in [true, false] {
        let mut resumed = go_on_in(run_dir.path(), changes);
        assert_eq!(resumed.step(), 2);
        match kept_before {
            true => resumed.keep_changes(run_dir.path()).unwrap(),
            // As a run does when it begins, though it ends at once.
            false => drop(train_on(
                &mut resumed,
                run_dir.path(),
                &AtomicBool::new(true),
            )),
        }
        let again = go_on_in(run_dir.path(), Changes::default());
        assert_eq!((again.step(), again.state.config.optimizer.lr), (2, 0.5));
    }
}

#[test]
fn names_that_freeze_nothing_are_refused() {
    let config = TrainConfig {
        freeze: vec!["backbone.embedding".to_owned()],
        ..settings(1)
    };
    let error = Trainer::new(NextToken, model(VOCAB), Box::new(task()), config).err();
    let error = error.unwrap();
    assert!(
        matches!(&error, Error::Config { field: "freeze", value, .. } if value.contains("embedding")),
        "{error}"
    );
}

#[test]
fn a_training_that_leaves_everything_as_it_is_is_refused() {
    let config = TrainConfig {
        freeze: vec!["backbone".to_owned()], // the head is the embedding's table
        ..settings(1)
    };
    let error = Trainer::new(NextToken, model(VOCAB), Box::new(task()), config).err();
    let error = error.unwrap().to_string();
    assert!(
        error.contains("train.freeze") && error.contains("left to train"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_without_digests_is_resumed_as_well() {
    let run_dir = tempfile::tempdir().unwrap();
    run(&mut trainer(settings(2)), Some(run_dir.path())).unwrap();
    let (_, checkpoint) = newest_checkpoint(run_dir.path()).unwrap().unwrap();
    let path = checkpoint.join("state.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    // As the version before wrote it.
    for new in ["seal", "recipe", "best"] {
        assert!(state.as_object_mut().unwrap().remove(new).is_some());
    }
    let config = state["config"].as_object_mut().unwrap();
    for new in ["decay", "best", "freeze"] {
        assert!(config.remove(new).is_some());
    }
    assert!(
        config["optimizer"]
            .as_object_mut()
            .unwrap()
            .remove("kind")
            .is_some()
    );
    fs::write(&path, state.to_string()).unwrap();
    let mut resumed = go_on_in(run_dir.path(), Changes::steps(3));
    run(&mut resumed, Some(run_dir.path())).unwrap();
    // What that version did not check is: the step, and the place in the data.
    for (key, value) in [
        ("step", 1.into()),
        (
            "position",
            serde_json::json!({ "source": "", "batches": 3 }),
        ),
    ] {
        let mut other = state.clone();
        other[key] = value;
        fs::write(&path, other.to_string()).unwrap();
        let error = crate::checkpoint::read_state(2, &checkpoint, Verify::Digests)
            .err()
            .unwrap();
        let Error::Damaged { source, .. } = &error else {
            panic!("{error}");
        };
        let what = match key {
            "step" => "it is of step and batch (1, 2), not (2, 2)",
            _ => "it is of step and batch (2, 3), not (2, 2)",
        };
        assert!(matches!(source, Damage::Position { .. }));
        assert_eq!(source.to_string(), what);
    }
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
    let error = Trainer::resume(NextToken, run_dir.path(), other, Changes::default(), None)
        .err()
        .unwrap();
    assert!(matches!(error, Error::OtherSettings { .. }), "{error}");
    let text = error.to_string();
    for part in ["seed 3", "seed 4", "set it back"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}
