//! Models that are built in: `--set model=NAME`.

use std::fs;

use crate::support::{TestFolder, with_settings};

const NAMES: [&str; 9] = [
    "mamba-mlp",
    "mamba-attention",
    "transformer",
    "gpt",
    "gau",
    "h3-attention",
    "gated-rnn",
    "lstm",
    "unet",
];

#[test]
fn every_one_learns_to_its_report_goes_on_to_the_bit_and_writes_text() {
    let place = TestFolder::new();
    let listed = place.run(&["recipes"]).succeeds().stdout;
    for name in NAMES {
        assert!(listed.contains(&format!("\n{name} ")), "{listed}");
        let model = format!("model={name}");
        let schedule = "train.schedule=constant"; // the same whatever the number of steps
        let more = [
            "--set",
            &model,
            "--set",
            "model.d_model=16",
            "--set",
            schedule,
        ];
        let train = |run: &str, steps: &str| {
            let own = [
                "--quiet", "--device", "cpu", "--name", run, "--steps", steps,
            ];
            place.train_text(&[&more[..], &own].concat()).succeeds();
        };
        let [whole, halves] = ["a", "b"].map(|run| format!("{name}-{run}"));
        train(&whole, "3");
        train(&halves, "2");
        let resumed = ["train", "--quiet", "--resume", &halves, "--steps", "3"];
        place.run(&resumed).succeeds();
        let weights =
            |run: &str| fs::read(place.path(&format!("runs/{run}/model/model.safetensors")));
        assert!(
            weights(&whole).unwrap() == weights(&halves).unwrap(),
            "{name}"
        );
        assert!(place.path(&format!("runs/{whole}/report.html")).is_file());
        let run = format!("runs/{whole}");
        let start = ["generate", "--model", &run, "--prompt", "the "];
        let text = place.run(&[&start[..], &["--tokens", "30", "--seed", "2"]].concat());
        assert!(text.succeeds().stdout.starts_with("the "));
    }
}

#[test]
fn a_unet_reads_documents_of_any_length_and_says_which_windows_it_trains_on() {
    let place = TestFolder::new();
    let line = |i: usize| format!("{{\"text\": \"{}\"}}\n", "abcdefg".repeat(1 + i % 7));
    place.write("lines.jsonl", (0..60).map(line).collect::<String>());
    let small = [
        "model=unet",
        "model.d_model=16",
        "task.batch=2",
        "train.steps=3",
    ];
    let train = |length: &str| {
        let length = format!("task.length={length}");
        let settings = [&small[..], &[&length]].concat();
        let own = ["--quiet", "--device", "cpu", "--name", "u"];
        place.run(&with_settings(
            &["train", "text", "--data", "lines.jsonl"],
            &settings,
            &own,
        ))
    };
    train("40").fails(2, &["task.length", "it is 40", "multiples of 16"]);
    train("48").succeeds(); // with held-out documents, read with carried state
    let eval = [
        "eval",
        "runs/u",
        "perplexity",
        "--data",
        "lines.jsonl",
        "--device",
        "cpu",
    ];
    place.run(&eval).succeeds();
}

#[test]
fn a_sequence_beyond_its_cache_or_its_positions_is_refused_and_a_shorter_sample_is_written() {
    let place = TestFolder::new();
    let small = r#"model.block={kind="attention",context=40}"#;
    let window = r#"model.block={kind="attention",window=5}"#;
    for (name, settings) in [
        ("a", [small, "model.positions=0"]),
        ("b", [window, "model.positions=32"]),
    ] {
        let settings = settings.map(|setting| ["--set", setting]).concat();
        let own = ["--quiet", "--device", "cpu", "--name", name];
        place.train_text(&[&settings[..], &own].concat()).succeeds();
    }
    let long = |model: &str| {
        let args = [
            "generate", "--model", model, "--prompt", "the ", "--tokens", "90",
        ];
        place.run(&args)
    };
    long("runs/a").fails(1, &["longer than attention's cache", "`context`"]);
    long("runs/b").fails(1, &["longer than", "model.positions"]);
    // Another text beside it is written to its end.
    let two = place.write("prompts.txt", "the \nthe longest of all these texts\n");
    let two = two.to_str().unwrap();
    let args = ["generate", "--model", "runs/a", "--prompts", two];
    let told = place.run(&[&args[..], &["--tokens", "12", "--json"]].concat());
    told.fails(1, &["longer than attention's cache"]);
    let ends: Vec<_> = told
        .json_lines()
        .into_iter()
        .map(|one| one["end"].clone())
        .collect();
    assert_eq!(ends, ["length", "full"]);
    let refused = |settings: &[&str], words: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|one| ["--set", *one]).collect();
        place
            .train_text(&[&settings[..], &["--device", "cpu"]].concat())
            .fails(2, words);
    };
    refused(&["model.positions=3"], &["model.positions", "it is 3"]);
    refused(
        &[
            r#"model.block={kind="attention",heads=3}"#,
            "model.d_model=16",
        ],
        &["model.block.heads = 3 does not divide d_model = 16"],
    );
    let huge = r#"model.block={kind="attention",context=1073741823}"#;
    refused(&["model.d_model=1024", huge], &["context", "1,073,741,823"]);
    let twin = [
        "train",
        "induction-heads",
        "--set",
        "model=transformer",
        "--device",
        "cpu",
    ];
    place.run(&twin).fails(2, &["twin", "--set twin=none"]);
}

#[test]
fn documents_are_evaluated_by_models_with_windows_too() {
    let place = TestFolder::new();
    let lines: String = (0..60)
        .map(|i| format!("{{\"text\": \"line {i} of a text that says little\"}}\n"))
        .collect();
    place.write("lines.jsonl", lines);
    let window = r#"model.block={kind="attention",window=5}"#;
    let args = [
        "train",
        "text",
        "--data",
        "lines.jsonl",
        "--set",
        window,
        "--quiet",
        "--device",
        "cpu",
    ];
    let small = [
        "--steps",
        "2",
        "--name",
        "w",
        "--set",
        "model.d_model=16",
        "--set",
        "task.length=16",
    ];
    place.run(&[&args[..], &small].concat()).succeeds();
    let eval = ["eval", "runs/w", "perplexity", "--data", "lines.jsonl"];
    let told = place.run(&eval).succeeds().stdout;
    assert!(told.contains("windows of"), "{told}");
}

/// That a layer's weights are shares, and that what is given is received.
fn hold_weights(layer: &serde_json::Value, tokens: usize) {
    let numbers = |values: &serde_json::Value| -> Vec<f64> {
        let values = values.as_array().unwrap().iter();
        values.map(|value| value.as_f64().unwrap()).collect()
    };
    let rows = layer["weights"].as_array().unwrap();
    let rows: Vec<Vec<f64>> = rows.iter().map(numbers).collect();
    let received = numbers(&layer["received"]);
    assert_eq!((rows.len(), received.len()), (tokens, tokens));
    for (query, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), query + 1);
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    }
    for (key, received) in received.iter().enumerate() {
        let given: f64 = rows[key..].iter().map(|row| row[key]).sum();
        assert!((given - received).abs() < 1e-5, "{key}: {given}");
    }
}

#[test]
fn layers_that_attend_are_inspected_beside_those_that_select() {
    let place = TestFolder::new();
    let prompt = "the fox";
    for (name, settings) in [
        ("hybrid", ["model.layers=FAUML", "model.n_layer=5"]),
        ("transformer", ["model=transformer", "model.d_model=16"]),
        ("lstm", ["model=lstm", "model.d_model=16"]),
    ] {
        let settings = settings.map(|setting| ["--set", setting]).concat();
        let own = ["--quiet", "--device", "cpu", "--name", name];
        place.train_text(&[&settings[..], &own].concat()).succeeds();
        assert!(place.path(&format!("runs/{name}/report.html")).is_file());
    }
    let inspect = |model: &str, more: &[&str]| {
        let start = ["inspect", "--model", model, "--prompt", prompt];
        place.run(&[&start[..], more].concat())
    };
    let layers =
        |model: &str| inspect(model, &["--json"]).succeeds().json_lines()[0]["layers"].clone();
    let names = |layers: &serde_json::Value| -> Vec<String> {
        let layers = layers.as_array().unwrap().iter();
        layers
            .map(|layer| layer["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let hybrid = layers("hybrid");
    assert_eq!(
        names(&hybrid),
        ["layer 2, attention", "layer 3, gau", "layer 4, mamba"]
    );
    let alone = layers("transformer");
    assert_eq!(names(&alone), ["layer 1, attention", "layer 3, attention"]);
    assert!(hybrid[2]["delta"].is_array() && hybrid[2]["weights"].is_null());
    for layer in [&hybrid[0], &hybrid[1], &alone[1]] {
        hold_weights(layer, prompt.len());
    }
    let (of_steps, of_weights) = ("The bars are step sizes", "The bars of attention");
    for (model, selects) in [("hybrid", true), ("transformer", false)] {
        let text = inspect(model, &[]).succeeds().stdout;
        assert!(
            text.contains(of_weights) && text.contains(of_steps) == selects,
            "{text}"
        );
        inspect(model, &["--out", "x.svg"]).succeeds();
        let svg = fs::read_to_string(place.path("x.svg")).unwrap();
        assert!(svg.contains("later queries") && svg.contains("step size Δ") == selects);
    }
    inspect("lstm", &[]).is_refused(1, &["no selective layers and no attention"]);
}
