//! `serpens quantize`, and weights as they are held.

use std::fs;
#[cfg(unix)]
use std::process::{Child, Stdio};
#[cfg(unix)]
use std::time::Duration;

use serde_json::Value;
use serpens::core::Device;
use serpens::formats::Verify;
use serpens::formats::safetensors::{read_tensors, write_tensors};

#[cfg(unix)]
use crate::interrupt::{hear_signals, send};
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
    // So are weights that are held as the file was made.
    let args = "eval wide perplexity --data text.txt --device cpu --json --weights q4_k";
    let held = json(&folder, &args.split(' ').collect::<Vec<_>>());
    let [held, after] = [&held["whole"]["perplexity"], &four["perplexity"]["after"]].map(number);
    assert!((held / after - 1.0).abs() < 1e-6, "{held}: {after}");
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
fn what_is_stored_as_it_was_has_the_same_perplexity() {
    let folder = folder();
    let args = ["quantize", "wide", "one.gguf", "--to", "q4_0"];
    folder.run(&args).succeeds();
    let report = json(
        &folder,
        &[
            "quantize", "one.gguf", "two.gguf", "--to", "q4_0", "--data", "text.txt", "--json",
        ],
    );
    let read = |name: &str| fs::read(folder.path(name)).unwrap();
    assert!(read("one.gguf") == read("two.gguf"));
    let [before, after] = ["before", "after"].map(|when| number(&report["perplexity"][when]));
    assert_eq!(before, after);
    let ran = folder.run(&["quantize", "one.gguf", "three.gguf", "--to", "q4_0"]);
    let words = "in blocks already";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    let ran = folder.run(&["quantize", "wide", "four.gguf", "--to", "q4_0"]);
    assert!(!ran.succeeds().stderr.contains(words));
}

#[test]
fn a_kind_of_blocks_is_the_same_for_every_command_and_what_it_cannot_hold_is_said() {
    let folder = folder();
    let quantized = folder.run(&["quantize", "wide", "a.gguf", "--to", "q4_k"]);
    let converted = folder.run(&["convert", "wide", "b.gguf", "--dtype", "q4_k"]);
    for ran in [quantized.succeeds(), converted.succeeds()] {
        let words = "1 tensor from blk.0.ssm_dt.weight on stored in bf16, as rows are no whole blocks of q4_k";
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let read = |name: &str| fs::read(folder.path(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
    let held = folder.run(&[
        "generate",
        "--model",
        "wide",
        "--tokens",
        "1",
        "--device",
        "cpu",
        "--weights",
        "q4_k",
    ]);
    let words = "% of the weights are held in bf16, as rows are no whole blocks of q4_k";
    assert!(held.succeeds().stderr.contains(words));
}

/// Writes a value into a parameter of the model.
fn set(folder: &TestFolder, name: &str, to: f32) {
    let weights = folder.path("runs/wide/model/model.safetensors");
    let mut tensors = read_tensors(&weights, Device::Cpu, Verify::Digests).unwrap();
    let weight = tensors.get_mut(name).unwrap();
    weight.make_mut::<f32>().unwrap()[7] = to;
    write_tensors(&weights, &tensors.into_iter().collect::<Vec<_>>()).unwrap();
}

#[test]
fn values_that_are_no_numbers_are_found_in_the_model_and_not_written() {
    let folder = folder();
    let layer = "backbone.layers.0.mixer";
    for (name, value) in [
        (format!("{layer}.in_proj.weight"), f32::NAN),
        (format!("{layer}.A_log"), f32::NAN),
        (format!("{layer}.A_log"), 100.0), // A is infinite
        (format!("{layer}.conv1d.bias"), f32::NEG_INFINITY),
        ("backbone.norm_f.weight".to_owned(), f32::INFINITY),
    ] {
        let good = fs::read(folder.path("runs/wide/model/model.safetensors")).unwrap();
        set(&folder, &name, value);
        for args in [
            &["quantize", "wide", "out.gguf", "--to", "q8_0"][..],
            &[
                "quantize", "wide", "out.gguf", "--to", "f32", "--data", "text.txt",
            ],
            &["convert", "wide", "out.gguf", "--dtype", "q8_0"],
            &["convert", "wide", "out", "--dtype", "f16"],
            &[
                "generate",
                "--model",
                "wide",
                "--weights",
                "q4_0",
                "--device",
                "cpu",
            ],
        ] {
            let words = ["runs/wide/model", &*name, "no numbers"];
            folder.run(args).is_refused(1, &words);
        }
        fs::write(folder.path("runs/wide/model/model.safetensors"), good).unwrap();
    }
    for out in ["out", "out.gguf"] {
        assert!(!folder.path(out).exists());
    }
}

#[test]
fn values_that_are_too_large_are_found_in_the_model_and_leave_no_file() {
    let folder = folder();
    set(&folder, "backbone.layers.0.mixer.in_proj.weight", 3e38);
    let ran = folder.run(&["quantize", "wide", "out.gguf", "--to", "q4_k"]);
    ran.fails(
        1,
        &[
            "runs/wide/model",
            "blk.0.ssm_in.weight",
            "too large values for Q4_K",
        ],
    );
    assert!(!ran.stderr.contains("out.gguf"), "{}", ran.stderr);
    let generate = [
        "generate",
        "--model",
        "wide",
        "--weights",
        "q4_0",
        "--device",
        "cpu",
    ];
    let words = ["model.safetensors", "in_proj.weight", "too large for q4_0"];
    folder.run(&generate).is_refused(1, &words);
    assert!(!folder.path("out.gguf").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_leaves_nothing_of_the_file_that_it_was_making() {
    let folder = TestFolder::new();
    // Large enough to be under way for a while.
    let large = [
        "--set",
        "model.d_model=512",
        "--set",
        "model.n_layer=8",
        "--name",
        "large",
    ];
    folder
        .train_text(&[&large[..], &["--steps", "1"]].concat())
        .succeeds();
    let begun = |number: &str| {
        let entries = fs::read_dir(folder.path("")).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_string_lossy().contains(&format!("{number}.tmp")))
    };
    for args in [
        &["quantize", "large", "a.gguf", "--to", "q4_k"][..],
        &["convert", "large", "a", "--dtype", "bf16"],
    ] {
        let mut interrupted = 0;
        // Files are made, written and renamed at some of these moments.
        for milliseconds in [0, 1, 2, 4, 8, 16, 32, 64] {
            let mut command = folder.command(args);
            hear_signals(&mut command);
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
            // Number 0 only tries whether it can be written. Whoever looks may be late, and the command at its end.
            while !begun("-1") && !ended(&mut child) {}
            std::thread::sleep(Duration::from_millis(milliseconds));
            if !ended(&mut child) {
                send("INT", &child);
            }
            let (code, made) = (child.wait().unwrap().code(), folder.path(args[2]));
            let whole = made.exists();
            assert!(
                code == Some(130) || whole && code == Some(0),
                "{args:?}: {code:?}"
            );
            interrupted += usize::from(code == Some(130));
            assert!(!begun(""), "{args:?} after {milliseconds} ms");
            if whole {
                let removed = fs::remove_dir_all(&made).or_else(|_| fs::remove_file(&made));
                removed.unwrap();
            }
        }
        assert_ne!(interrupted, 0, "{args:?} ended before every signal");
    }
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
    folder.write("byte.txt", "x");
    for (arguments, words) in [
        (
            &["wide", "there.gguf", "--to", "q4_k"][..],
            &["OUT.gguf", "there already"][..],
        ),
        (
            &["wide", "folder", "--to", "q4_k"],
            &["OUT.gguf", "ends in .gguf"],
        ),
        (
            &[
                "wide",
                "none/a.gguf",
                "--to",
                "q4_k",
                "--data",
                "nothing.txt",
            ],
            &["cannot write none/a.gguf"],
        ),
        (
            &["wide", "a.gguf", "--to", "q4_k", "--keep", "blk.7.*=q8_0"],
            &["--keep", "\"blk.7.*\" matches none", "blk.0.ssm_in.weight"],
        ),
        (
            &["wide", "a.gguf", "--to", "q4_k", "--keep", "*norm*=q8_0"],
            &["--keep", "\"*norm*\" matches none"],
        ),
        (
            &[
                "wide",
                "a.gguf",
                "--to",
                "q4_k",
                "--keep",
                "blk.*=q8_0",
                "--keep",
                "blk.0*=q4_0",
            ],
            &["--keep", "\"blk.0*\" matches none", "before it"],
        ),
        (
            &["wide", "a.gguf", "--to", "q4_k", "--data", "nothing.txt"],
            &["nothing.txt"],
        ),
        (
            &["wide", "a.gguf", "--to", "q4_k", "--data", "byte.txt"],
            &["--data", "nothing to predict"],
        ),
    ] {
        let ran = folder.run(&[&["quantize"][..], arguments].concat());
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    }
    for (keep, words) in [
        ("q4_k", "give a pattern of names and one of"),
        ("*=q3_k", "give a pattern of names and one of"),
        ("*=Q8_0", "give a pattern of names and one of"),
        ("[=q8_0", "is no pattern of names"),
    ] {
        let ran = folder.run(&["quantize", "wide", "a.gguf", "--to", "q8_0", "--keep", keep]);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!folder.path("a.gguf").exists());
}
