use crate::{AdamWConfig, Error, Schedule, StopRule, TrainConfig};

#[test]
fn the_learning_rate_rises_and_falls_as_configured() {
    let optimizer = AdamWConfig {
        lr: 1.0,
        ..AdamWConfig::default()
    };
    let constant = TrainConfig {
        steps: 100,
        warmup: 10,
        optimizer,
        ..TrainConfig::default()
    };
    let cosine = TrainConfig {
        schedule: Schedule::Cosine,
        min_lr: 0.2,
        ..constant.clone()
    };
    for config in [&constant, &cosine] {
        assert!((config.learning_rate(0) - 0.1).abs() < 1e-6);
        assert_eq!(config.learning_rate(9), 1.0);
        assert_eq!(config.learning_rate(10), 1.0);
    }
    assert_eq!(constant.learning_rate(99), 1.0);
    assert!((cosine.learning_rate(55) - 0.6).abs() < 1e-6, "half way");
    assert!((cosine.learning_rate(100) - 0.2).abs() < 1e-6);
    assert!((cosine.learning_rate(1_000_000) - 0.2).abs() < 1e-6);
    let rates: Vec<f32> = (10..100).map(|step| cosine.learning_rate(step)).collect();
    assert!(rates.is_sorted_by(|a, b| a > b));
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
    assert_eq!(with(|c| c.log_every = 0), "log_every");
    assert_eq!(with(|c| c.keep = 0), "keep");
    assert_eq!(with(|c| c.optimizer.lr = f32::NAN), "optimizer.lr");
    assert_eq!(with(|c| c.min_lr = 1.0), "min_lr");
    assert_eq!(with(|c| c.optimizer.beta2 = 1.0), "optimizer.beta2");
    assert_eq!(with(|c| c.optimizer.eps = 0.0), "optimizer.eps");
    assert_eq!(with(|c| c.optimizer.clip = -1.0), "optimizer.clip");
    assert_eq!(
        with(|c| c.stop = Some(StopRule {
            accuracy: 1.5,
            steps: 1
        })),
        "stop.accuracy"
    );
}

#[test]
fn unknown_settings_are_refused() {
    let error = serde_json::from_str::<TrainConfig>(r#"{ "step": 5 }"#).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `step`"),
        "{error}"
    );
}
