//! `serpens quantize`, and weights as they are held.

use std::fs;

use serde_json::Value;

use crate::support::TestFolder;

/// A folder with a model of bytes, wide enough for blocks of 256.
fn folder() -> TestFolder {
    let folder = TestFolder::new();
    let wide = [
        "--set",
        "model.d_model=256",
        "--set",
        "model.n_layer=1",
        "--name",
        "wide",
    ];
    folder.train_text(&wide).succeeds();
    folder
}

#[track_caller]
fn json(folder: &TestFolder, args: &[&str]) -> Value {
    let ran = folder.run(args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).expect("it is JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn a_quantised_model_says_what_it_lost_and_answers_as_it_said() {
    let folder = folder();
    let quantize = |to: &str, more: &[&str]| {
        let args = [
            "quantize", "wide", to, "--data", "text.txt", "--json", "--to",
        ];
        json(&folder, &[&args[..], more].concat())
    };
    let eight = quantize("eight.gguf", &["q8_0"]);
    let four = quantize("four.gguf", &["q4_k"]);
    let mixed = quantize(
        "mixed.gguf",
        &["q4_0", "--keep", "*.ssm_in.*=q6_k", "--keep", "token*=bf16"],
    );
    let bytes = |report: &Value| number(&report["bytes"]["after"]);
    assert!(bytes(&four) < bytes(&mixed) && bytes(&mixed) < bytes(&eight));
    for (report, bits) in [(&eight, 8.5..9.5), (&four, 4.5..6.5), (&mixed, 5.0..8.0)] {
        assert!(
            bits.contains(&number(&report["bits_per_weight"]["after"])),
            "{report}"
        );
        let before = number(&report["perplexity"]["before"]);
        let after = number(&report["perplexity"]["after"]);
        assert!((after / before - 1.0).abs() < 0.05, "{report}");
        // What `eval` finds of the file is what was said.
        let file = report["to"].as_str().unwrap();
        let read = json(
            &folder,
            &[
                "eval",
                file,
                "perplexity",
                "--data",
                "text.txt",
                "--device",
                "cpu",
                "--json",
            ],
        );
        let found = number(&read["whole"]["perplexity"]);
        assert!((found / after - 1.0).abs() < 1e-9, "{found}: {report}");
    }
    let kinds = |report: &Value, name: &str| {
        let worst = report["worst"].as_array().unwrap().clone();
        let found = worst.into_iter().find(|tensor| tensor["tensor"] == name);
        found.expect("it was rounded")["type"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(kinds(&four, "token_embd.weight"), "q6_k");
    assert_eq!(kinds(&four, "blk.0.ssm_in.weight"), "q4_k");
    assert_eq!(kinds(&mixed, "blk.0.ssm_in.weight"), "q6_k");
    assert_eq!(kinds(&mixed, "blk.0.ssm_out.weight"), "q4_0");
    assert_eq!(kinds(&mixed, "token_embd.weight"), "bf16");
    let errors = four["worst"].as_array().unwrap().iter();
    let errors: Vec<f64> = errors
        .map(|tensor| number(&tensor["relative_squared_error"]))
        .collect();
    assert!(
        errors.is_sorted_by(|a, b| a >= b) && errors[0] > 1e-3,
        "{errors:?}"
    );
    let told = folder.run(&["quantize", "wide", "told.gguf", "--to", "q4_k"]);
    for words in [
        "told.gguf",
        "bits per weight",
        "worst tensors",
        "blk.0.ssm_in.weight",
    ] {
        assert!(told.stdout.contains(words), "{}", told.stdout);
    }
    assert!(
        fs::read(folder.path("told.gguf")).unwrap() == fs::read(folder.path("four.gguf")).unwrap()
    );
}

#[test]
fn weights_are_held_as_they_are_wanted() {
    let folder = folder();
    let perplexity = |weights: &[&str]| {
        let args = [
            "eval",
            "wide",
            "perplexity",
            "--data",
            "text.txt",
            "--device",
            "cpu",
            "--json",
        ];
        number(&json(&folder, &[&args[..], weights].concat())["whole"]["perplexity"])
    };
    let stored = perplexity(&[]);
    assert_eq!(perplexity(&["--weights", "f32"]), stored);
    for weights in ["bf16", "q8_0", "q6_k", "q4_k", "q4_0"] {
        let narrow = perplexity(&["--weights", weights]);
        assert!(
            narrow != stored && (narrow / stored - 1.0).abs() < 0.05,
            "{weights}: {narrow}"
        );
    }
    let text = |weights: &[&str]| {
        let args = [
            "generate",
            "--model",
            "wide",
            "--prompt",
            "the snake",
            "--tokens",
            "8",
            "--device",
            "cpu",
        ];
        folder.run(&[&args[..], weights].concat()).succeeds().stdout
    };
    assert!(text(&["--weights", "q8_0"]).starts_with("the snake"));
    // A state belongs to the weights that it was read with.
    text(&["--weights", "q4_k", "--save-state", "state"]);
    text(&["--weights", "q4_k", "--state", "state"]);
}

#[test]
fn what_cannot_be_quantised_is_refused_in_one_line() {
    let folder = folder();
    folder.write("there.gguf", "");
    for (arguments, words) in [
        (
            &["wide", "there.gguf", "--to", "q4_k"][..],
            &["TO", "there already"][..],
        ),
        (
            &["wide", "folder", "--to", "q4_k"],
            &["TO", "ends in .gguf"],
        ),
        (
            &["wide", "a.gguf", "--to", "q4_k", "--data", "nothing.txt"],
            &["nothing.txt"],
        ),
    ] {
        let ran = folder.run(&[&["quantize"][..], arguments].concat());
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    }
    for keep in ["q4_k", "*=q3_k", "[=q8_0"] {
        let ran = folder.run(&["quantize", "wide", "a.gguf", "--to", "q8_0", "--keep", keep]);
        assert!(
            ran.stderr.contains("give a pattern of names and one of"),
            "{}",
            ran.stderr
        );
    }
    assert!(!folder.path("a.gguf").exists());
}
