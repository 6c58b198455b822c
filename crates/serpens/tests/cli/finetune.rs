//! `serpens train --init`: going on from models in files, whole or by matrices of low rank.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Ran, TestFolder, assert_same_file, files, started, with_settings};

/// A run of few steps on short rows.
const SHORT: &[&str] = &[
    "task.batch=2",
    "task.length=16",
    "task.validation=0.3",
    "train.steps=4",
    "train.log_every=1",
    "train.eval_every=2",
    "train.checkpoint_every=2",
];

/// Nothing is learnt with it, to the bit.
const STANDSTILL: &[&str] = &["--lr", "1e-30", "--set", "train.min_lr=0"];

/// Where models lie that other tests read.
fn fixture(name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    crates.join(name)
}

/// The tiny published model of 96 tokens in the folder `base`, with a table of as many symbols.
fn base(place: &TestFolder) {
    fs::create_dir(place.path("base")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = fixture("serpens-nn/tests/fixtures/hf-tiny").join(file);
        fs::copy(from, place.path("base").join(file)).unwrap();
    }
    let symbols = (' '..='~').chain(['\n']).map(String::from);
    let table = serde_json::json!({ "symbols": symbols.collect::<Vec<_>>() });
    place.write("base/symbols.json", table.to_string());
}

/// `serpens train text` on lines of prompts and completions, with more arguments.
fn tune(place: &TestFolder, init: &str, more: &[&str]) -> Ran {
    let line = |i| format!("{{\"prompt\": \"{i} and {i} \", \"completion\": \"are many.\"}}\n");
    place.write("d.jsonl", (0..40).map(line).collect::<String>());
    let start = [
        "train", "text", "--init", init, "--data", "d.jsonl", "--quiet",
    ];
    place.run(&with_settings(&start, SHORT, more))
}

/// The most probable text, with the probabilities of its tokens.
#[track_caller]
fn text(place: &TestFolder, model: &[&str]) -> Value {
    let greedy = ["--temperature", "0", "--tokens", "12", "--prompt", "the "];
    let told = ["--json", "--logprobs", "1", "--device", "cpu"];
    let args = [&["generate", "--model"], model, &greedy, &told].concat();
    place.run(&args).succeeds().json_lines()[0]["log_probs"].clone()
}

fn log_probs(told: &Value) -> Vec<f64> {
    let tokens = told.as_array().unwrap().iter();
    tokens
        .map(|token| token["log_prob"].as_f64().unwrap())
        .collect()
}

#[track_caller]
fn assert_close(one: &Value, other: &Value) {
    for (a, b) in log_probs(one).into_iter().zip(log_probs(other)) {
        assert!((a - b).abs() < 1e-4, "{one}\n{other}");
    }
}

/// The names and bytes of the tensors in a file.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = fs::read(path).unwrap();
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let named = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    let named = named.map(|(name, entry)| {
        let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
        (name, values[from..to].to_vec())
    });
    named.collect()
}

#[test]
fn a_model_is_gone_on_from_with_its_tokenizer_wherever_it_is_later() {
    let place = TestFolder::new();
    base(&place);
    let first = text(&place, &["base"]);
    tune(&place, "base", &[STANDSTILL, &["--name", "same"]].concat()).succeeds();
    assert_eq!(
        first,
        text(&place, &["same"]),
        "it begins with the model's values"
    );
    tune(&place, "base", &["--name", "a", "--lr", "0.01"]).succeeds();
    assert_ne!(first, text(&place, &["a"]));
    let settings = fs::read_to_string(place.path("runs/a/config.toml")).unwrap();
    let init = format!("[init]\npath = {:?}", place.path("base"));
    for words in [&init, "vocab_size = 96", "weight_decay = 0.01"] {
        assert!(settings.contains(words), "{words} is not in {settings}");
    }
    // The same again, from what the run keeps of its beginning.
    place
        .run(&[
            "train",
            "--quiet",
            "--recipe",
            "runs/a/config.toml",
            "--name",
            "b",
        ])
        .succeeds();
    let model = |run: &str| place.path(&format!("runs/{run}/model/model.safetensors"));
    assert_same_file(&model("a"), &model("b"));
    // One that was killed before its first checkpoint begins anew.
    for lost in ["checkpoints", "model"] {
        fs::remove_dir_all(place.path("runs/b").join(lost)).unwrap();
    }
    let again = place.run(&["train", "--quiet", "--resume", "b"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_same_file(&model("a"), &model("b"));
    // Others are gone on with without the first model, and from another folder.
    fs::rename(place.path("base"), place.path("moved")).unwrap();
    fs::rename(place.path("runs/a"), place.path("elsewhere")).unwrap();
    fs::create_dir(place.path("below")).unwrap();
    let mut resume = place.command(&[
        "train",
        "--quiet",
        "--resume",
        "../elsewhere",
        "--steps",
        "6",
    ]);
    let resumed = resume.current_dir(place.path("below")).output().unwrap();
    Ran::new(&["resume"], resumed).succeeds();
    text(&place, &["elsewhere"]);
    text(&place, &["elsewhere/checkpoints/step-0000006"]);
}

#[test]
fn models_of_every_format_are_gone_on_from() {
    let place = TestFolder::new();
    let folder = fixture("serpens/tests/eval");
    let folder = folder.to_str().unwrap();
    let first = text(&place, &[folder]);
    for (to, more) in [
        ("a.gguf", &[][..]),
        ("original", &["--format", "original-names"]),
        ("q8.gguf", &["--dtype", "q8_0"]),
    ] {
        place
            .run(&[&["convert", folder, to], more].concat())
            .succeeds();
    }
    // As Lightning names its tensors: a beginning before each.
    let file = fs::read(place.path("original/model.safetensors")).unwrap();
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = String::from_utf8_lossy(header).replace("\"backbone.", "\"net.backbone.");
    let length = (header.len() as u64).to_le_bytes();
    fs::create_dir(place.path("prefixed")).unwrap();
    fs::copy(
        place.path("original/config.json"),
        place.path("prefixed/config.json"),
    )
    .unwrap();
    fs::copy(
        place.path("original/tokenizer.json"),
        place.path("prefixed/tokenizer.json"),
    )
    .unwrap();
    let bytes = [&length, header.as_bytes(), values].concat();
    place.write("prefixed/model.safetensors", bytes);
    // Its digests are of the other names.
    let prefix = ["--prefix", "net", "--no-verify"];
    for (name, init, more) in [
        ("of-folder", folder, &[][..]),
        ("of-gguf", "a.gguf", &[]),
        ("of-original", "original", &[]),
        ("of-file", "original/model.safetensors", &[]),
        ("of-run", "of-folder", &[]),
        ("of-model", "runs/of-folder/model", &[]),
        ("of-prefixed", "prefixed", &prefix),
    ] {
        let more = [STANDSTILL, &["--name", name], more].concat();
        tune(&place, init, &more).succeeds();
        assert_eq!(first, text(&place, &[name]), "{name}");
    }
    // Also where it begins anew with what is said of its beginning.
    for lost in ["checkpoints", "model"] {
        fs::remove_dir_all(place.path("runs/of-prefixed").join(lost)).unwrap();
    }
    let again = place.run(&["train", "--quiet", "--resume", "of-prefixed", "--no-verify"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(first, text(&place, &["of-prefixed"]));
    // What is in blocks is widened.
    let more = [STANDSTILL, &["--name", "of-blocks"]].concat();
    tune(&place, "q8.gguf", &more).succeeds();
    assert_eq!(text(&place, &["q8.gguf"]), text(&place, &["of-blocks"]));
}

#[test]
fn an_adapter_is_all_that_is_learnt_and_works_beside_the_model_in_it_and_alone() {
    let place = TestFolder::new();
    base(&place);
    let rank = ["--name", "a", "--lr", "0.05", "--set", "lora.rank=4"];
    let ran = tune(&place, "base", &rank).succeeds();
    assert!(
        ran.stdout.contains("adapter runs/a/adapter"),
        "{}",
        ran.stdout
    );
    let tuned = text(&place, &["a"]);
    let far = log_probs(&tuned)
        .into_iter()
        .zip(log_probs(&text(&place, &["base"])));
    assert!(far.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 1e-2);
    // All of the model is as it was, and of the adapter alone there are moments.
    let before = tensors(&place.path("base/model.safetensors"));
    let after = tensors(&place.path("runs/a/model/model.safetensors"));
    let added = |name: &str| name.contains(".lora_A.") || name.contains(".lora_B.");
    let kept: Vec<_> = after
        .iter()
        .filter(|(name, _)| !added(name))
        .cloned()
        .collect();
    assert!(kept == before && after.len() > kept.len());
    let moments = tensors(&place.path("runs/a/checkpoints/step-0000004/optimizer.safetensors"));
    assert_eq!(moments.len(), 2 * (after.len() - kept.len()));
    assert!(moments.iter().all(|(name, _)| added(name)));
    // Alone, as PEFT has it.
    let alone = ["base", "--adapter", "runs/a/adapter"];
    assert_eq!(tuned, text(&place, &alone));
    let settings = place.json("runs/a/adapter/adapter_config.json");
    assert_eq!(
        (&settings["r"], &settings["peft_type"]),
        (&4.into(), &"LORA".into())
    );
    let named = settings["base_model_name_or_path"].as_str().unwrap();
    assert_eq!(Path::new(named), place.path("base"));
    // Merged for other programs.
    place.run(&["convert", "a", "merged"]).succeeds();
    assert_eq!(place.json("merged/config.json")["model_type"], "mamba");
    let merged = tensors(&place.path("merged/model.safetensors"));
    assert!(
        merged
            .iter()
            .map(|(name, _)| name)
            .eq(before.iter().map(|(name, _)| name))
    );
    assert_close(&tuned, &text(&place, &["merged"]));
    let bits = ["quantize", "a", "a.gguf", "--to", "f32", "--json"];
    let report = place.run(&bits).succeeds().json_lines().remove(0);
    // Of what is there: a run has what was learnt apart, a file has it added.
    for when in ["before", "after"] {
        assert_eq!(report["bits_per_weight"][when], 32.0, "{report}");
    }
    // In everything else that reads models, and to go on from.
    place
        .run(&["eval", "a", "perplexity", "--data", "d.jsonl"])
        .succeeds();
    place
        .run(&["inspect", "--model", "a", "--prompt", "the"])
        .succeeds();
    text(&place, &["runs/a/checkpoints/step-0000002"]);
    for (name, init) in [("b", &["a"][..]), ("c", &alone)] {
        let more = [STANDSTILL, &["--name", name], &init[1..]].concat();
        tune(&place, init[0], &more).succeeds();
        assert_close(&tuned, &text(&place, &[name]));
    }
    let second = ["--set", "lora.rank=2", "--adapter", "runs/a/adapter"];
    tune(&place, "base", &second).is_refused(2, &["--adapter", "serpens convert", "base"]);
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_adapter() {
    let place = TestFolder::new();
    base(&place);
    let rare = [
        "--set",
        "train.checkpoint_every=100",
        "--set",
        "train.eval_every=0",
    ];
    let long = ["--steps", "400", "--lr", "0.01", "--set", "lora.rank=2"];
    let long = [&rare[..], &long].concat();
    tune(&place, "base", &[&long[..], &["--name", "whole"]].concat()).succeeds();
    let start = [
        "train", "text", "--init", "base", "--data", "d.jsonl", "--json",
    ];
    let args = with_settings(&start, SHORT, &[&long[..], &["--name", "cut"]].concat());
    let mut command = place.command(&args);
    // More lines than the pipe holds come after it.
    let (mut child, _lines) = started(command.stderr(Stdio::null()), "\"checkpointed\"");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path("runs/cut/model").exists());
    fs::rename(place.path("base"), place.path("moved")).unwrap();
    place
        .run(&["train", "--quiet", "--resume", "cut"])
        .succeeds();
    for part in ["adapter", "model"] {
        let of = |run: &str| files(&place.path(&format!("runs/{run}/{part}")));
        let (whole, cut) = (of("whole"), of("cut"));
        assert_eq!(whole.len(), cut.len());
        for ((_, whole), (path, cut)) in whole.iter().zip(&cut) {
            assert!(whole == cut, "{}", path.display());
        }
    }
}

#[test]
fn what_does_not_go_with_the_model_is_refused_by_name() {
    let place = TestFolder::new();
    base(&place);
    for (set, words) in [
        (
            "model.n_layer=4",
            &["model.n_layer", "base", "leave it out"][..],
        ),
        (
            "model.block.inner.d_state=8",
            &["model.block.inner.d_state"],
        ),
        ("model.lora.rank=8", &["model.lora", "leave it out"]),
        ("lora.rank=0", &["lora.rank = 0"]),
        ("lora.targets=[]", &["lora.targets"]),
        (
            "lora.targets=[\"q_proj\"]",
            &["lora.targets", "q_proj", "in_proj"],
        ),
        ("lora.dropout=0.1", &["dropout", "alpha"]),
        (
            "train.freeze=[\"backbone\"]",
            &["train.freeze", "left to train"],
        ),
    ] {
        let ran = tune(&place, "base", &["--set", set]);
        let in_model = ran.stderr.contains("model.lora");
        assert_eq!(in_model, set.starts_with("model.lora"), "{}", ran.stderr);
        ran.is_refused(2, words);
    }
    let eval = fixture("serpens/tests/eval");
    let tokenizer = ["--tokenizer", eval.to_str().unwrap()];
    tune(&place, "base", &tokenizer).is_refused(1, &["503 tokens", "only 96"]);
    tune(&place, "nothing", &[]).is_refused(1, &["nothing", "no such folder"]);
    fs::remove_file(place.path("base/symbols.json")).unwrap();
    tune(&place, "base", &[]).is_refused(1, &["base", "no tokenizer", "--tokenizer"]);
    let run = |args: &[&str]| place.run(&[&["train"], args].concat());
    run(&["--init", "base"]).is_refused(2, &["twin", "twin=none"]);
    run(&["text-finetune", "--data", "d.jsonl"]).is_refused(2, &["model", "--init"]);
    for set in ["lora.rank=8", "model.lora.rank=8"] {
        run(&["text", "--data", "d.jsonl", "--set", set]).is_refused(2, &["lora", "--init"]);
    }
    for option in ["--prefix", "--adapter"] {
        let ran = run(&["text", option, "x"]);
        assert!(ran.code == Some(2) && ran.stderr.contains("--init <MODEL>"));
    }
    let ran = run(&["--init", "base", "--resume", "a"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("cannot be used with"));
    run(&["--recipe", "nope"]).is_refused(2, &["nope", "text-finetune"]);
    assert!(!place.path("runs").exists());
}
