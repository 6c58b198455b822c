//! `serpens convert`, and models in files.

use std::fs;
use std::path::Path;

use crate::support::TestFolder;

/// A tiny model with a tokenizer.
fn model() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval");
    path.to_str().unwrap().to_owned()
}

#[track_caller]
fn convert(folder: &TestFolder, from: &str, to: &str, more: &[&str]) {
    folder
        .run(&[&["convert", from, to][..], more].concat())
        .succeeds();
}

/// The most probable text, with the probabilities of its tokens.
#[track_caller]
fn text(folder: &TestFolder, model: &str) -> String {
    let options = [
        "generate", "--model", model, "--prompt", "the ", "--tokens", "12",
    ];
    let greedy = [
        "--temperature",
        "0",
        "--json",
        "--device",
        "cpu",
        "--logprobs",
        "1",
    ];
    let ran = folder.run(&[&options[..], &greedy].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(told["tokens"].as_u64().unwrap() > 0, "{told}");
    format!("{} {}", told["text"], told["log_probs"])
}

#[test]
fn a_model_writes_the_same_text_from_every_format() {
    let folder = TestFolder::new();
    let first = text(&folder, &model());
    convert(&folder, &model(), "a.gguf", &[]);
    convert(&folder, "a.gguf", "back", &[]);
    convert(&folder, "back", "original", &["--format", "original-names"]);
    convert(&folder, "original/model.safetensors", "b.gguf", &[]);
    for name in ["a.gguf", "back", "original", "b.gguf"] {
        assert_eq!(text(&folder, name), first, "{name}");
    }
    let read = |name: &str| fs::read(folder.path(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"), "not the same bytes");
    // Rounded values are other ones, but still a model.
    convert(&folder, "back", "half", &["--dtype", "bf16"]);
    text(&folder, "half");
}

#[test]
fn what_cannot_be_converted_is_refused_in_one_line() {
    let folder = TestFolder::new();
    convert(&folder, &model(), "there.gguf", &[]);
    let cut = fs::read(folder.path("there.gguf")).unwrap();
    fs::write(folder.path("cut.gguf"), &cut[..cut.len() / 2]).unwrap();
    for (arguments, words) in [
        (
            &[&model()[..], "there.gguf"][..],
            &["TO", "there already"][..],
        ),
        (&[&model(), "new", "--dtype", "q8_0"], &["--dtype", "gguf"]),
        (
            &[&model(), "new", "--format", "gguf"],
            &["TO", "ends in .gguf"],
        ),
        // What is made is looked at before what it is made of.
        (&["cut.gguf", "none/new"], &["cannot write none/new"]),
        (
            &["there.gguf", "new", "--prefix", "model"],
            &["--prefix", "leave it out"],
        ),
        (&["nothing", "new"], &["nothing", "no such folder or file"]),
        (&["cut.gguf", "new"], &["cut.gguf"]),
    ] {
        let ran = folder.run(&[&["convert"][..], arguments].concat());
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    }
    assert!(!folder.path("new").exists());
    // One that cannot be written whole leaves nothing.
    fs::create_dir(folder.path("wide")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(
            Path::new(&model()).join(file),
            folder.path("wide").join(file),
        )
        .unwrap();
    }
    let weights = folder.path("wide/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&1e30_f32.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let ran = folder.run(&["convert", "wide", "narrow", "--dtype", "f16"]);
    // What cannot be held is named where it is.
    ran.fails(1, &["wide: tensor"]);
    assert!(!ran.stderr.contains("narrow"), "{}", ran.stderr);
    let left = fs::read_dir(folder.path("")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with("narrow")),
        "{left:?}"
    );
}
