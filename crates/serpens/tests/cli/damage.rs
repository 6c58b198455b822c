//! Models and checkpoints that are not what they should be.

use std::fs;
use std::path::Path;

use crate::support::TestFolder;

/// Runs both commands that read a model.
fn both_refuse(place: &TestFolder, model: &str, words: &[&str]) {
    place
        .run(&["generate", "--model", model])
        .is_refused(1, words);
    place
        .run(&["inspect", "--model", model, "--prompt", "ab"])
        .is_refused(1, words);
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 10]).unwrap();
}

#[test]
fn folders_without_a_model_are_refused() {
    let place = TestFolder::new();
    fs::create_dir(place.path("empty")).unwrap();
    both_refuse(&place, "empty", &["holds no model", "config.json"]);
    both_refuse(&place, "missing", &["missing"]);
    place.write("file", "text");
    both_refuse(&place, "file", &["file"]);
}

#[test]
fn damaged_and_foreign_models_are_refused() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let (config, weights) = (
        place.path("runs/a/model/config.json"),
        place.path("runs/a/model/model.safetensors"),
    );
    let (good_config, good_weights) = (
        fs::read_to_string(&config).unwrap(),
        fs::read(&weights).unwrap(),
    );
    let set = |key: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_str(&good_config).unwrap();
        json[key] = value;
        fs::write(&config, json.to_string()).unwrap();
    };

    truncate(&weights);
    both_refuse(&place, "runs/a", &["model.safetensors", "truncated"]);
    fs::write(&weights, "").unwrap();
    both_refuse(&place, "runs/a", &["model.safetensors"]);
    fs::write(&weights, "no weights at all, but a line of text").unwrap();
    both_refuse(&place, "runs/a", &["model.safetensors"]);
    fs::remove_file(&weights).unwrap();
    both_refuse(&place, "runs/a", &["model.safetensors"]);
    fs::write(&weights, &good_weights).unwrap();

    fs::write(&config, &good_config[..good_config.len() / 2]).unwrap();
    both_refuse(&place, "runs/a", &["config.json", "configuration"]);
    set("model_type", "llama".into());
    both_refuse(&place, "runs/a", &["config.json", "llama"]);
    set("hidden_size", 16.into());
    both_refuse(&place, "runs/a", &["model.safetensors", "shape"]);
    set("num_hidden_layers", 2.into());
    both_refuse(&place, "runs/a", &["model.safetensors", "missing"]);
    // Compared with the weights' header, before anything is made of it.
    for (key, value, word) in [
        ("hidden_size", 100_000_000_u64, "shape"),
        ("num_hidden_layers", 1_000_000, "too few"),
        ("num_hidden_layers", u64::MAX, "too few"),
        ("expand", 1 << 40, "shape"),
    ] {
        set(key, value.into());
        both_refuse(&place, "runs/a", &["model.safetensors", word]);
    }
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "state_size",
        "conv_kernel",
        "expand",
    ] {
        set(key, 0.into());
        both_refuse(&place, "runs/a", &["config.json"]);
    }
}

#[test]
fn an_unfinished_run_is_told_from_a_folder_without_a_model() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    fs::remove_dir_all(place.path("runs/a/model")).unwrap();
    let inspect = |model: &str| place.run(&["inspect", "--model", model]);
    let checkpoint = "runs/a/checkpoints/step-0000004";
    let words = ["not finished", "serpens train --resume runs/a", checkpoint];
    inspect("runs/a").is_refused(1, &words);
    inspect(checkpoint).succeeds();
    inspect("runs").is_refused(1, &["config.json"]);
    inspect("missing").is_refused(1, &["no such folder"]);
}

#[test]
fn only_runs_are_resumed() {
    let place = TestFolder::new();
    fs::create_dir_all(place.path("runs/empty")).unwrap();
    for run in ["empty", "missing", "runs/empty"] {
        place
            .run(&["train", "--resume", run])
            .is_refused(2, &["--resume", run, "config.toml"]);
    }
    place.train(&["--quiet", "--name", "a"]).succeeds();
    place.write("runs/a/config.toml", "seed = 0\n");
    place
        .run(&["train", "--resume", "a"])
        .is_refused(2, &["runs/a/config.toml"]);
}

#[test]
fn a_run_is_not_resumed_with_other_data() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    fs::remove_dir_all(place.path("runs/a/model")).unwrap();
    place.write("other.txt", "quite another text. ".repeat(300));
    let before = fs::read(place.path("runs/a/config.toml")).unwrap();
    let ran = place.run(&["train", "--quiet", "--resume", "a", "--data", "other.txt"]);
    ran.is_refused(2, &["--data", "leave it out"]);
    assert!(before == fs::read(place.path("runs/a/config.toml")).unwrap());
    fs::rename(place.path("text.txt"), place.path("moved.txt")).unwrap();
    place
        .run(&["train", "--quiet", "--resume", "a"])
        .is_refused(2, &["--data", "text.txt"]);
    place
        .run(&["train", "--quiet", "--resume", "a", "--data", "moved.txt"])
        .succeeds();
}
