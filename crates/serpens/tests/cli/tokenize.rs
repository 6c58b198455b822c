//! `serpens tokenize`, and training on what it makes.

use std::fs;
use std::path::PathBuf;

use crate::support::{TINY_TEXT, TestFolder, with_settings};

/// A tokenizer of 503 tokens.
fn tokenizer() -> String {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../serpens-data");
    let file = crates.join("tests/tokenizers/byte-level.json");
    file.canonicalize().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_token_file_is_learnt_and_its_tokenizer_saved_with_the_model() {
    let place = TestFolder::new();
    place.text();
    let with = tokenizer();
    let args = [
        "tokenize",
        "text.txt",
        "--tokenizer",
        &with,
        "--out",
        "text.tokens",
    ];
    let ran = place.run(&[&args[..], &["--json"]].concat()).succeeds();
    let told = &ran.json_lines()[0];
    assert_eq!(
        (&told["documents"], &told["bytes"], &told["vocabulary"]),
        (&1.into(), &4104.into(), &503.into())
    );
    let first = fs::read(place.path("text.tokens")).unwrap();
    let tokens = told["tokens"].as_u64().unwrap() as usize;
    assert_eq!(first.len(), 64 + 2 * tokens); // 503 tokens fit two bytes
    let again = place.run(&args).succeeds();
    assert!(
        again.stderr.contains("1 document") && again.stderr.contains("4,104 bytes"),
        "{}",
        again.stderr
    );
    assert!(fs::read(place.path("text.tokens")).unwrap() == first);

    let (key, start) = (
        format!("task.tokenizer={with}"),
        ["train", "text", "--data"],
    );
    let settings = [TINY_TEXT, &[&*key, "model.vocab_size=512"]].concat();
    for (data, run) in [("text.tokens", "runs/text-1"), ("text.txt", "runs/text-2")] {
        let ran = place
            .run(&with_settings(
                &[&start[..], &[data]].concat(),
                &settings,
                &[],
            ))
            .succeeds();
        assert!(
            ran.stderr.contains("tokens to learn from"),
            "{}",
            ran.stderr
        );
        assert!(ran.stdout.contains("bits per byte"), "{}", ran.stdout);
        let saved = place.json(&format!("{run}/model/tokenizer.json"));
        assert_eq!(saved["added_tokens"][0]["content"], "<|endoftext|>");
    }
    let metrics =
        |run: &str| fs::read_to_string(place.path(&format!("{run}/metrics.jsonl"))).unwrap();
    let loss = |run| {
        let line = metrics(run).lines().next().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["loss"].clone()
    };
    assert_eq!(loss("runs/text-1"), loss("runs/text-2"));
    let model = place.path("runs/text-1/model/config.json");
    assert!(model.exists() && !place.path("runs/text-1/twin").exists());
}

#[test]
fn what_cannot_be_tokenized_is_refused_in_one_line() {
    let place = TestFolder::new();
    place.text();
    place.write("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}\n");
    place.write("broken.json", "{\"model\": 1}");
    let with = tokenizer();
    for (file, tokenizer, code, words) in [
        ("missing.txt", &*with, 1, "missing.txt"),
        ("bad.jsonl", &with, 1, "line 2"),
        ("text.txt", "broken.json", 2, "--tokenizer"),
        ("text.txt", "missing", 2, "missing"),
    ] {
        let ran = place.run(&["tokenize", file, "--tokenizer", tokenizer, "--out", "out"]);
        ran.is_refused(code, &[words]);
        assert!(!place.path("out").exists());
    }
    let key = format!("task.tokenizer={with}");
    let train = |more: &[&str]| {
        let settings = [TINY_TEXT, more].concat();
        place.run(&with_settings(
            &["train", "text", "--data", "text.txt"],
            &settings,
            &[],
        ))
    };
    train(&[&key]).is_refused(2, &["model.vocab_size", "503"]);
    train(&["task.tokenizer=missing"]).is_refused(2, &["task.tokenizer", "missing"]);
    let encode =
        |out: &str| place.run(&["tokenize", "text.txt", "--tokenizer", &with, "--out", out]);
    encode("text.txt").is_refused(1, &["text.txt", "one of the texts"]);
    encode("out").succeeds();
    fs::rename(place.path("out"), place.path("text.txt")).unwrap();
    train(&[]).is_refused(2, &["--data", "another tokenizer"]);
}
