//! `serpens eval`, against what lm-evaluation-harness made of the same model and questions
//! (scripts/make_eval_vectors.py).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::TestFolder;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval")
}

fn harness() -> Value {
    let text = fs::read_to_string(vectors().join("harness.json")).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// A task of one's own: white space at the end of contexts, and none at all.
const EDGES: &str = r#"
context = "{{ before }}"
target = "{{ choice }}"
choices = "endings"
gold = "answer"
metrics = ["acc", "acc_norm", "acc_bytes"]
"#;

#[track_caller]
fn assert_close(got: &Value, expected: &Value, tolerance: f64, what: &str) {
    let [got, expected] = [got, expected].map(|value| value.as_f64().expect("a number"));
    let away = (got - expected).abs();
    assert!(
        away <= tolerance * expected.abs().max(1.0),
        "{what}: {got} and {expected}"
    );
}

#[test]
fn scores_and_metrics_are_those_of_the_harness() {
    let folder = TestFolder::new();
    folder.write("own.toml", EDGES);
    for (from, to) in [
        ("lambada.jsonl", "lambada/lambada_test_rwkv.jsonl"),
        ("arc-easy.jsonl", "arc/arc_easy.jsonl"),
        ("piqa.jsonl", "piqa/valid.jsonl"),
        ("valid-labels.lst", "piqa/valid-labels.lst"),
        ("winogrande.jsonl", "winogrande/winogrande.jsonl"),
        ("edges.jsonl", "edges.jsonl"),
    ] {
        let to = folder.path("data").join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(vectors().join(from), to).unwrap();
    }
    let model = vectors();
    let model = model.to_str().unwrap();
    let start = [
        "eval",
        model,
        "--device",
        "cpu",
        "--json",
        "--items",
        "items.jsonl",
    ];
    let built_in = [
        "lambada",
        "arc-easy",
        "piqa",
        "winogrande",
        "--data",
        "data",
    ];
    let own = ["--task-file", "own.toml", "--data", "data/edges.jsonl"];
    let harness = harness();
    for (more, names) in [(&built_in[..], &built_in[..4]), (&own, &["edges"])] {
        let ran = folder.run(&[&start[..], more].concat()).succeeds();
        let result: Value = serde_json::from_str(&ran.stdout).unwrap();
        let lines = fs::read_to_string(folder.path("items.jsonl")).unwrap();
        let mut lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        for (i, name) in names.iter().enumerate() {
            let (task, expected) = (&result["tasks"][i], &harness["tasks"][name]);
            for (metric, figure) in task["metrics"].as_object().unwrap() {
                let of = |key: &str| &expected["metrics"][key];
                // Shares to the last bit but one, perplexities as log-probabilities.
                let tolerance = if metric == "perplexity" { 1e-4 } else { 1e-12 };
                assert_close(&figure["value"], of(metric), tolerance, metric);
                let stderr = of(&format!("{metric}_stderr"));
                if metric != "perplexity" {
                    // Of a perplexity the harness draws it by lot.
                    assert_close(&figure["stderr"], stderr, 1e-12, "stderr");
                }
            }
            let log_probs = expected["log_probs"].as_array().unwrap();
            assert_eq!(task["questions"], log_probs.len());
            for (at, expected_of) in log_probs.iter().enumerate() {
                let line = lines.next().unwrap();
                assert_eq!(line["greedy"], expected["greedy"][at], "{name}, {line}");
                let got = line["log_probs"].as_array().unwrap();
                assert_eq!(got.len(), expected_of.as_array().unwrap().len());
                for (got, expected) in got.iter().zip(expected_of.as_array().unwrap()) {
                    assert_close(got, expected, 1e-5, &line.to_string());
                }
            }
            let tokens = |key: &str| task["tokens"][key].as_u64().unwrap();
            let shares = !["lambada", "winogrande"].contains(name);
            assert_eq!(tokens("read") < tokens("asked"), shares, "{name}: {task}");
        }
        assert!(lines.next().is_none());
    }
}

#[test]
fn a_text_is_predicted_as_by_the_harness_whole_and_in_windows() {
    let folder = TestFolder::new();
    let (model, text) = (vectors(), vectors().join("text.txt"));
    let expected = &harness()["text"];
    let window = expected["window"].to_string();
    let [model, text] = [&model, &text].map(|path| path.to_str().unwrap());
    let start = [
        "eval",
        model,
        "perplexity",
        "--data",
        text,
        "--device",
        "cpu",
    ];
    let ran = folder
        .run(&[&start[..], &["--window", &window, "--json"]].concat())
        .succeeds();
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(result["tokens"], expected["tokens"]);
    let tokens = expected["tokens"].as_f64().unwrap();
    for key in ["whole", "windows"] {
        let mean = -expected[key].as_f64().unwrap() / tokens;
        assert_close(&result[key]["perplexity"], &mean.exp().into(), 1e-5, key);
        let bits = mean / std::f64::consts::LN_2;
        assert_close(&result[key]["bits_per_token"], &bits.into(), 1e-6, key);
        let bytes = result["bytes"].as_f64().unwrap();
        assert_close(
            &result[key]["bits_per_byte"],
            &(bits * tokens / bytes).into(),
            1e-6,
            key,
        );
    }
    // All bytes but those of the first token.
    let missing = fs::metadata(text).unwrap().len() - result["bytes"].as_u64().unwrap();
    assert!((1..8).contains(&missing), "{missing}");
    let shown = folder.run(&start).succeeds().stdout;
    assert!(
        shown.contains("bits per byte") && shown.contains("its whole document"),
        "{shown}"
    );
}

#[test]
fn tables_name_tasks_metrics_and_errors_and_a_limit_is_kept() {
    let folder = TestFolder::new();
    let (model, data) = (vectors(), vectors().join("arc-easy.jsonl"));
    let [model, data] = [&model, &data].map(|path| path.to_str().unwrap());
    let args = [
        "eval", model, "arc-easy", "--data", data, "--limit", "3", "--device", "cpu",
    ];
    let ran = folder.run(&args).succeeds();
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["task", "questions", "metric", "value", "±"]);
    let names = |row: usize| rows[row][..3].join(" ");
    assert_eq!(
        [names(1), names(2)],
        ["arc-easy 3 acc", "arc-easy 3 acc_norm"]
    );
    assert!(rows.len() == 3 && rows.iter().all(|row| row.len() == 5));
    assert!(
        ran.stderr
            .contains("what choices have in common was read once"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_cannot_be_evaluated_is_refused_in_one_line() {
    let folder = TestFolder::new();
    let model = vectors();
    let model = model.to_str().unwrap();
    let data = |name: &str| vectors().join(name).to_str().unwrap().to_owned();
    let (arc, words, text) = (
        data("arc-easy.jsonl"),
        data("lambada.jsonl"),
        data("text.txt"),
    );
    folder.write("lines.jsonl", "{}");
    folder.write("letter.txt", "a");
    folder.write("small.json", r#"{"symbols": ["a"]}"#);
    folder.write(
        "large.json",
        format!(
            r#"{{"symbols": {:?}}}"#,
            (0..9000).map(|i| format!("s{i}.")).collect::<Vec<_>>()
        ),
    );
    for (args, words) in [
        (&["piqa", "--data", "lines.jsonl"][..], "valid-labels.lst"),
        (&["piqa", "--data", &arc], "no field \"goal\", but choices"),
        (
            &["hellaswag", "--data", &words],
            "lambada.jsonl, line 1: it has no field \"choices\", but text;",
        ),
        (
            &["arc-easy", "--data", &text],
            "line 1: it is no JSON object",
        ),
        (&["arc-easy", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (
            &["perplexity", "--data", "letter.txt"],
            "nothing to predict",
        ),
        (&["arc-easy", "--data", "."], "arc/arc_easy.jsonl"),
        (
            &["no-task", "--data", &arc],
            "no task is called \"no-task\"; known are lambada",
        ),
        (
            &["perplexity", "arc-easy", "--data", &arc],
            "perplexity stands by itself",
        ),
        (
            &["arc-easy", "--window", "8", "--data", &arc],
            "perplexity takes --data and --window",
        ),
        (
            &["perplexity", "--limit", "8", "--data", &text],
            "perplexity takes --data and --window",
        ),
        (&["perplexity", "--data", "nowhere.txt"], "nowhere.txt"),
        (&["arc-easy", "--limit", "0", "--data", &arc], "1 or more"),
        (
            &["arc-easy", "--data", &arc, "--tokenizer", "small.json"],
            "no symbol for",
        ),
        (
            &["arc-easy", "--data", &arc, "--tokenizer", "large.json"],
            "9000 tokens, but the model only",
        ),
        (&["--data", &arc], "required"),
    ] {
        let ran = folder.run(&[&["eval", model][..], args].concat());
        assert!(matches!(ran.code, Some(1 | 2)), "{args:?}: {:?}", ran.code);
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
        let clap = ran.stderr.contains("Usage") || ran.stderr.contains("--help'");
        assert!(
            clap || ran.stderr.trim_end().lines().count() == 1,
            "{}",
            ran.stderr
        );
    }
    // A model without a tokenizer.
    for name in ["config.json", "model.safetensors"] {
        fs::copy(vectors().join(name), folder.path(name)).unwrap();
    }
    let ran = folder.run(&["eval", ".", "arc-easy", "--data", &arc]);
    assert!(
        ran.stderr.contains("give one with --tokenizer"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_is_there_is_not_written_over_and_no_number_is_no_result() {
    let folder = TestFolder::new();
    let lines = fs::read(vectors().join("arc-easy.jsonl")).unwrap();
    fs::write(folder.path("q.jsonl"), &lines).unwrap();
    folder.write("other.txt", "mine");
    let model = vectors();
    for items in ["q.jsonl", "other.txt"] {
        let args = ["arc-easy", "--data", "q.jsonl", "--items", items];
        let args = [&["eval", model.to_str().unwrap()][..], &args].concat();
        folder
            .run(&args)
            .is_refused(2, &["--items", "there already"]);
    }
    assert_eq!(fs::read(folder.path("q.jsonl")).unwrap(), lines);
    fs::create_dir(folder.path("bad")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(vectors().join(file), folder.path("bad").join(file)).unwrap();
    }
    let weights = folder.path("bad/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    folder.write("text.txt", "the cat sat");
    let args = ["eval", "bad", "perplexity", "--data", "text.txt"];
    folder.run(&args).is_refused(1, &["no numbers"]);
}
