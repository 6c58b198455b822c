use crate::{Error, OptimizerConfig, Phase, Schedule, StopRule, TrainConfig};

fn rates(config: &TrainConfig) -> Vec<f32> {
    (0..config.steps)
        .map(|step| config.learning_rate(step))
        .collect()
}

/// 100 steps whose learning rate rises to 1 in 10.
fn hundred(schedule: Schedule) -> TrainConfig {
    TrainConfig {
        steps: 100,
        warmup: Phase::Steps(10),
        schedule,
        min_lr: 0.2,
        optimizer: OptimizerConfig {
            lr: 1.0,
            ..OptimizerConfig::default()
        },
        ..TrainConfig::default()
    }
}

#[test]
fn the_learning_rate_rises_to_the_peak_and_ends_at_exactly_the_lowest() {
    use Schedule::{Constant, Cosine, Linear, Wsd};
    for schedule in [Constant, Cosine, Linear, Wsd] {
        let rates = rates(&hundred(schedule));
        assert!((rates[0] - 0.1).abs() < 1e-6);
        assert!(rates[..10].is_sorted_by(|a, b| a < b));
        assert_eq!(rates[9], 1.0, "{schedule:?}");
        let (last, falling) = match schedule {
            Constant => (1.0, 100..100),
            Cosine | Linear => (0.2, 9..100),
            Wsd => (0.2, 79..100), // a fifth of the steps
        };
        assert_eq!(rates[99], last, "{schedule:?}");
        assert!(rates[9..falling.start].iter().all(|&rate| rate == 1.0));
        assert!(rates[falling].is_sorted_by(|a, b| a > b), "{schedule:?}");
    }
    let half = 54; // 45 of the 90 steps after the warm-up
    assert!((rates(&hundred(Cosine))[half] - 0.6).abs() < 1e-6);
    assert!((rates(&hundred(Linear))[half] - 0.6).abs() < 1e-6);
    let quarter = (1.0 + (std::f64::consts::PI * 23.0 / 90.0).cos()) / 2.0;
    let quarter = (0.2 + 0.8 * quarter) as f32;
    assert!((rates(&hundred(Cosine))[9 + 23] - quarter).abs() < 1e-6);
    assert!((rates(&hundred(Wsd))[89] - 0.6).abs() < 1e-6);
    // Beyond its end, as where a run stands that has been given fewer steps.
    assert_eq!(hundred(Cosine).learning_rate(1_000_000), 0.2);
}

#[test]
fn phases_are_steps_or_a_share_of_all() {
    let read = |text: &str| serde_json::from_str::<TrainConfig>(text);
    let warmup = |text| read(text).unwrap().warmup;
    assert_eq!(warmup(r#"{ "warmup": 1 }"#), Phase::Steps(1));
    assert_eq!(warmup(r#"{ "warmup": 0.25 }"#), Phase::Share(0.25));
    let error = read(r#"{ "warmup": "long" }"#).unwrap_err().to_string();
    assert!(error.contains("share of all steps such as 0.25"), "{error}");
    let mut config = hundred(Schedule::Linear);
    config.warmup = Phase::Share(0.25);
    for steps in [4, 100, 1000] {
        config.steps = steps;
        let rates = rates(&config);
        assert_eq!(rates[steps as usize / 4 - 1], 1.0, "of {steps} steps");
        assert_eq!(rates[steps as usize - 1], 0.2, "of {steps} steps");
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let with = |change: fn(&mut TrainConfig)| {
        let mut config = TrainConfig::default();
        config.check().unwrap();
        change(&mut config);
        match config.check().unwrap_err() {
            Error::Config { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(with(|c| c.accumulation = 0), "accumulation");
    assert_eq!(with(|c| c.accumulation = 1_000_000_000_000), "accumulation");
    assert_eq!(with(|c| c.warmup = Phase::Share(1.5)), "warmup");
    assert_eq!(with(|c| c.warmup = Phase::Steps(c.steps + 1)), "warmup");
    assert_eq!(with(|c| c.decay = Phase::Steps(c.steps + 1)), "decay");
    assert_eq!(with(|c| c.decay = Phase::Share(f64::NAN)), "decay");
    assert_eq!(with(|c| c.log_every = 0), "log_every");
    assert_eq!(with(|c| c.keep = 0), "keep");
    assert_eq!(with(|c| c.optimizer.lr = f32::NAN), "optimizer.lr");
    assert_eq!(with(|c| c.min_lr = 1.0), "min_lr");
    let falls_up = TrainConfig {
        min_lr: 2e-3,
        ..TrainConfig::default()
    };
    let told = falls_up.check().unwrap_err().to_string();
    assert!(told.contains("train.min_lr = 0.002 is not"), "{told}");
    for (wrong, field) in [
        (r#"{ "beta2": 1 }"#, "optimizer.beta2"),
        (r#"{ "eps": 0 }"#, "optimizer.eps"),
        (
            r#"{ "kind": "sgd", "momentum": -0.5 }"#,
            "optimizer.momentum",
        ),
        (r#"{ "kind": "lion", "beta1": 1 }"#, "optimizer.beta1"),
    ] {
        let config = TrainConfig {
            optimizer: serde_json::from_str(wrong).unwrap(),
            ..TrainConfig::default()
        };
        let error = config.check().unwrap_err();
        assert!(
            matches!(error, Error::Config { field: found, .. } if found == field),
            "{error}"
        );
    }
    assert_eq!(with(|c| c.optimizer.clip = -1.0), "optimizer.clip");
    assert_eq!(with(|c| c.optimizer.clip = f32::NAN), "optimizer.clip");
    assert_eq!(
        with(|c| c.stop = Some(StopRule {
            accuracy: 1.5,
            steps: 1
        })),
        "stop.accuracy"
    );
}

#[test]
fn a_table_of_an_optimiser_says_its_kind_and_what_differs_from_its_defaults() {
    let read = |text: &str| serde_json::from_str::<OptimizerConfig>(text);
    for (kind, all) in [
        ("adamw", OptimizerConfig::ADAMW),
        ("sgd", OptimizerConfig::SGD),
        ("lion", OptimizerConfig::LION),
    ] {
        let table = format!(r#"{{ "kind": "{kind}" }}"#);
        assert_eq!(read(&table).unwrap(), all);
        let table = format!(r#"{{ "lr": 0.5, "kind": "{kind}", "clip": 2 }}"#);
        let changed = OptimizerConfig {
            lr: 0.5,
            clip: 2.0,
            ..all
        };
        assert_eq!(read(&table).unwrap(), changed);
        let written = serde_json::to_string(&changed).unwrap();
        assert_eq!(read(&written).unwrap(), changed, "{written}");
    }
    assert_eq!(read("{}").unwrap(), OptimizerConfig::default());
    for (wrong, told) in [
        (
            r#"{ "kind": "adam" }"#,
            "unknown variant `adam`, expected one of `adamw`, `sgd`, `lion`",
        ),
        (
            r#"{ "kind": "sgd", "eps": 1e-9 }"#,
            "unknown field `eps`, expected one of `kind`, `lr`, `momentum`, `weight_decay`, `clip`",
        ),
        (r#""lion""#, r#"expected { kind = "lion", lr = 1e-4 }"#),
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn unknown_settings_are_refused() {
    let error = serde_json::from_str::<TrainConfig>(r#"{ "step": 5 }"#).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `step`"),
        "{error}"
    );
}
