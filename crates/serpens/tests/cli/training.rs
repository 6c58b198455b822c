//! `serpens train`: what a run prints and leaves behind.

use std::fs;

use crate::support::{TestFolder, assert_same_file, files};

#[test]
fn a_run_leaves_its_settings_metrics_checkpoints_models_and_report() {
    let place = TestFolder::new();
    let ran = place.train(&[]).succeeds();
    for words in ["length", "S6", "S4D", "16", "32", "Trained at length 16"] {
        assert!(
            ran.stdout.contains(words),
            "{words:?} is not in:\n{}",
            ran.stdout
        );
    }
    let run = "runs/induction-heads-1";
    for folder in [run.to_owned(), format!("{run}/twin")] {
        let files = [
            "metrics.jsonl",
            "checkpoints/step-0000002/state.json",
            "checkpoints/step-0000004/optimizer.safetensors",
            "model/model.safetensors",
        ];
        for file in files {
            assert!(
                place.path(&format!("{folder}/{file}")).is_file(),
                "{folder}/{file}"
            );
        }
        place.json(&format!("{folder}/model/config.json"));
        let metrics = fs::read_to_string(place.path(&format!("{folder}/metrics.jsonl"))).unwrap();
        assert_eq!(metrics.lines().count(), 4);
        for line in metrics.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["loss"].as_f64().unwrap().is_finite());
        }
    }
    for (path, _) in files(&place.path(run)) {
        let name = path
            .strip_prefix(place.path(run))
            .unwrap()
            .display()
            .to_string();
        let left = name.contains(".tmp") || name.contains("unfinished");
        assert!(!left, "{name} was left behind");
    }
    let second = place.train(&["--quiet"]).succeeds();
    assert_eq!(second.stderr, "");
    assert!(second.stdout.contains("runs/induction-heads-2/report.html"));
    let settings =
        |n: u32| fs::read(place.path(&format!("runs/induction-heads-{n}/config.toml"))).unwrap();
    assert_eq!(settings(1), settings(2));
    assert_same_file(
        &place.path("runs/induction-heads-1/model/model.safetensors"),
        &place.path("runs/induction-heads-2/model/model.safetensors"),
    );
}

#[test]
fn the_settings_of_a_run_are_a_recipe_for_the_same_run() {
    let place = TestFolder::new();
    place
        .train(&["--quiet", "--name", "first", "--seed", "7"])
        .succeeds();
    let again = [
        "train",
        "--quiet",
        "--recipe",
        "runs/first/config.toml",
        "--name",
        "second",
    ];
    place.run(&again).succeeds();
    assert_same_file(
        &place.path("runs/first/twin/model/model.safetensors"),
        &place.path("runs/second/twin/model/model.safetensors"),
    );
    place
        .train(&["--quiet", "--name", "third", "--seed", "8"])
        .succeeds();
    let weights =
        |name: &str| fs::read(place.path(&format!("runs/{name}/model/model.safetensors"))).unwrap();
    assert!(
        weights("first") != weights("third"),
        "another seed gives another model"
    );
}

#[test]
fn the_report_needs_nothing_from_elsewhere() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let page = fs::read_to_string(place.path("runs/a/report.html")).unwrap();
    let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for word in ["http://", "https://", "src=", "@import", "<link", "NaN"] {
        assert!(!page.contains(word), "the report holds {word:?}");
    }
    for word in [
        "<svg",
        "What S6 selects",
        "Accuracy against length",
        "d_model = 8",
    ] {
        assert!(page.contains(word), "the report lacks {word:?}");
    }
}

#[test]
fn json_is_all_there_is_on_standard_output() {
    let place = TestFolder::new();
    let ran = place.train(&["--json", "--name", "a"]).succeeds();
    let lines = ran.json_lines();
    let events: Vec<&str> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    let one = [
        "started",
        "stepped",
        "stepped",
        "checkpointed",
        "stepped",
        "stepped",
        "checkpointed",
    ];
    let tested = ["tested"; 4]; // two models at two lengths
    assert_eq!(
        events,
        [&["run"], &one[..], &one[..], &tested, &["finished"]].concat()
    );
    assert_eq!(lines[0]["run"], "runs/a");
    let last = &lines[lines.len() - 2];
    assert_eq!(
        (&last["model"], &last["length"]),
        (&"S4D".into(), &32.into())
    );
    assert_eq!(lines.last().unwrap()["table"]["header"][0], "length");
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_name_is_given_once() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "mine"]).succeeds();
    let before = files(&place.path("runs"));
    let ran = place.train(&["--name", "mine"]);
    ran.is_refused(2, &["mine is there already", "--name", "--resume"]);
    assert!(before == files(&place.path("runs")));
}

#[test]
fn selective_copying_trains_too() {
    let place = TestFolder::new();
    let settings = [
        "model.d_model=8",
        "model.n_layer=1",
        "task.batch=2",
        "task.length=16",
        "task.data_tokens=2",
        "train.steps=2",
        "train.warmup=0",
        "evaluate.samples=2",
    ];
    let args = crate::support::with_settings(&["train", "selective-copying"], &settings, &[]);
    let ran = place.run(&args).succeeds();
    assert!(ran.stdout.contains("Answers right"), "{}", ran.stdout);
}

#[test]
fn a_text_is_learnt_without_held_out_text() {
    let place = TestFolder::new();
    let ran = place.train_text(&["--set", "task.validation=0", "--name", "a"]);
    let ran = ran.succeeds();
    assert!(ran.stdout.contains("Bits per byte in training"));
    assert!(ran.stdout.contains("Nothing was held out"));
    let metrics = fs::read_to_string(place.path("runs/a/metrics.jsonl")).unwrap();
    assert!(!metrics.contains("bits_per_byte"));
    // What the model wrote is hardly text: its bytes are shown, not those of a character in their place.
    let shown = place.json("runs/a/report.json")["maps"][0]["tokens"].clone();
    let shown = shown.as_array().unwrap();
    assert!(shown.len() == 64 && shown.iter().any(|byte| byte.as_str().unwrap().len() == 2));
    let replaced = |bytes: &[serde_json::Value]| *bytes == ["ef", "bf", "bd"];
    assert!(!shown.windows(3).any(replaced), "{shown:?}");
}

#[test]
fn a_long_held_out_text_is_read_in_samples() {
    let place = TestFolder::new();
    let more = ["--set", "evaluate.tokens=80", "--name", "a"];
    let ran = place.train_text(&more).succeeds();
    let words = "80 bytes that training never saw, spread evenly over the 410 held out";
    assert!(ran.stdout.contains(words), "{}", ran.stdout);
    // What was said while it was trained is what is said of it.
    let metrics = fs::read_to_string(place.path("runs/a/metrics.jsonl")).unwrap();
    let last = metrics.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let bits = last["evaluation"]["bits_per_byte"].as_f64().unwrap();
    let told = format!("{bits:.3}");
    assert!(ran.stdout.contains(&told), "{told}\n{}", ran.stdout);
}

#[test]
fn shares_are_told_with_their_interval() {
    let place = TestFolder::new();
    let ran = place.train(&["--json", "--name", "a"]).succeeds();
    let events = ran.json_lines();
    let tested = events.iter().filter(|event| event["event"] == "tested");
    for event in tested {
        let [low, high] = [0, 1].map(|end| event["interval"][end].as_f64().unwrap());
        let accuracy = event["accuracy"].as_f64().unwrap();
        // Of 4 sequences: Wilson's interval is wide.
        assert!(
            low <= accuracy && accuracy <= high && high - low > 0.4,
            "{event}"
        );
    }
    let cell = &events.last().unwrap()["table"]["rows"][0][1];
    assert!(cell.as_str().unwrap().contains('–'), "{cell}");
}

#[test]
fn a_run_tested_no_further_than_trained_claims_no_more() {
    let place = TestFolder::new();
    let ran = place
        .train(&["--quiet", "--set", "evaluate.lengths=[16]"])
        .succeeds();
    assert!(ran.stdout.contains("within it"), "{}", ran.stdout);
    let ran = place
        .train(&["--quiet", "--set", "evaluate.lengths=[]"])
        .succeeds();
    assert!(!ran.stdout.contains("right"), "{}", ran.stdout);
}

#[test]
fn an_evaluation_that_is_no_number_ends_the_run() {
    let place = TestFolder::new();
    let absurd = [
        "--set",
        "train.optimizer.lr=1e30",
        "--set",
        "train.optimizer.clip=0",
        "--set",
        "train.schedule=constant",
        "--steps",
        "1",
    ];
    let ran = place.train_text(&[&absurd[..], &["--name", "bad"]].concat());
    ran.fails(1, &["bits_per_byte is NaN at step 1"]);
    assert!(!place.path("runs/bad/model").exists());
}

#[test]
fn the_number_of_threads_does_not_change_the_model() {
    let place = TestFolder::new();
    place
        .train(&["--quiet", "--name", "many", "--threads", "3"])
        .succeeds();
    place
        .train(&["--quiet", "--name", "one", "--threads", "1"])
        .succeeds();
    for file in ["model/model.safetensors", "twin/model/model.safetensors"] {
        assert_same_file(
            &place.path(&format!("runs/many/{file}")),
            &place.path(&format!("runs/one/{file}")),
        );
    }
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "good"]).succeeds();
    let absurd = [
        "--set",
        "train.optimizer.lr=1e30",
        "--set",
        "train.optimizer.clip=0",
        "--set",
        "train.checkpoint_every=1",
        "--steps",
        "50",
        "--name",
        "bad",
    ];
    let ran = place.train(&absurd);
    ran.fails(1, &[" at step ", "learning rate"]);
    let checkpoint = place.path("runs/bad/checkpoints/step-0000001");
    assert!(checkpoint.join("state.json").is_file());
    assert!(!place.path("runs/bad/model").exists());
    let before = files(&checkpoint);
    // Going on finds the same, and still leaves the checkpoint.
    place
        .run(&["train", "--resume", "bad"])
        .fails(1, &["step-0000001", "A_log", "diverged"]);
    assert!(before == files(&checkpoint));
}
