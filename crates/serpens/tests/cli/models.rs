//! `serpens generate`, `inspect`, `recipes` and `doctor`.

use std::fs;

use crate::support::{Ran, TestFolder, with_settings};

#[test]
fn a_text_model_is_trained_and_writes_the_same_text_for_the_same_seed() {
    let place = TestFolder::new();
    let ran = place.train_text(&["--name", "a"]).succeeds();
    assert!(
        ran.stdout.contains("Bits per byte on held-out text"),
        "{}",
        ran.stdout
    );
    let metrics = fs::read_to_string(place.path("runs/a/metrics.jsonl")).unwrap();
    assert_eq!(
        metrics.matches("bits_per_byte").count(),
        2,
        "at steps 2 and 3"
    );

    let generate = |more: &[&str]| -> Ran {
        let start = [
            "generate", "--model", "runs/a", "--prompt", "the ", "--tokens", "40",
        ];
        place.run(&[&start[..], more].concat()).succeeds()
    };
    let text = generate(&[]).stdout;
    assert!(text.starts_with("the "));
    assert_eq!(text, generate(&["--seed", "0"]).stdout);
    assert_ne!(text, generate(&["--seed", "1"]).stdout);
    let greedy = generate(&["--temperature", "0"]).stdout;
    assert_eq!(
        greedy,
        generate(&["--temperature", "0", "--seed", "1"]).stdout
    );
    let json = generate(&["--json"]).json_lines();
    assert_eq!(json.len(), 1);
    assert_eq!(
        (&json[0]["prompt"], &json[0]["tokens"]),
        (&"the ".into(), &40.into())
    );
    assert_eq!(text, format!("the {}\n", json[0]["text"].as_str().unwrap()));
    let direct = [
        "generate",
        "--model",
        "runs/a/model",
        "--prompt",
        "the ",
        "--tokens",
        "40",
    ];
    assert_eq!(text, place.run(&direct).succeeds().stdout);
    // By its name; the beginning from a file or through a pipe, as bytes.
    place.write("prompt", "the ");
    let named = [
        "generate",
        "--model",
        "a",
        "--tokens",
        "40",
        "--prompt-file",
    ];
    let from_file = place.run(&[&named[..], &["prompt"]].concat());
    assert_eq!(text, from_file.succeeds().stdout);
    let from_pipe = place.run_with_input(&[&named[..], &["-"]].concat(), b"the ");
    assert_eq!(text, from_pipe.succeeds().stdout);
    let bytes = place.run_with_input(&[&named[..], &["-", "--json"]].concat(), &[0xff; 3]);
    assert_eq!(
        bytes.succeeds().json_lines()[0]["prompt"],
        "\u{fffd}\u{fffd}\u{fffd}"
    );
    // The penalty leaves no byte as probable as it was; with min-p of nearly 1 only the most probable is left.
    assert_ne!(
        greedy,
        generate(&["--temperature", "0", "--repetition-penalty", "1e30"]).stdout
    );
    assert_eq!(greedy, generate(&["--min-p", "0.999999"]).stdout);

    let cases = [
        ["--prompt", ""],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top-p", "0"],
        ["--top-p", "2"],
        ["--min-p", "1"],
        ["--repetition-penalty", "0"],
        ["--presence-penalty", "nan"],
        ["--frequency-penalty", "inf"],
        ["--prompt-file", "/dev/null"],
    ];
    for case in cases {
        let value = format!("{}={}", case[0], case[1]);
        let ran = place.run(&["generate", "--model", "runs/a", &value]);
        ran.is_refused(2, &[case[0]]);
    }

    let ran = place.run(&["generate", "--model", "runs/a", "--tokens", "0"]);
    let told = ran.succeeds().stderr;
    assert!(
        told.contains("read 1 token in ") && !told.contains("first token"),
        "{told}"
    );
    place.write("small.txt", "a text");
    for (args, code, words) in [
        (&["small.txt"][..], 1, &["small.txt is no model file"][..]),
        (
            &["runs/a", "--revision", "v2"],
            2,
            &["--revision", "only names on the hub"],
        ),
        (
            &["x.gguf", "--revision", "v2"],
            2,
            &["--revision", "only names on the hub"],
        ),
    ] {
        let ran = place.run(&[&["generate", "--model"], args].concat());
        ran.is_refused(code, words);
    }

    let map = place
        .run(&["inspect", "--model", "runs/a", "--prompt", "the snake"])
        .succeeds();
    assert!(map.stdout.contains("layer 1"), "{}", map.stdout);
    place
        .run(&["inspect", "--model", "runs/a"])
        .is_refused(2, &["--prompt"]);
    place
        .run(&["inspect", "--model", "runs/a", "--prompt", ""])
        .is_refused(2, &["--prompt"]);
}

#[test]
fn many_prompts_and_samples_are_written_at_once_as_each_alone() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let generate = |more: &[&str]| {
        let start = ["generate", "--model", "a", "--tokens", "12", "--json"];
        let ran = place.run(&[&start[..], more].concat()).succeeds();
        assert!(
            !ran.stdout.contains('\u{1b}'),
            "what a terminal would obey is escaped"
        );
        ran.json_lines()
    };
    let prompts = ["the snake", "x", "and again, and again"];
    place.write("prompts.txt", format!("{}\n\n", prompts.join("\n\n")));
    let in_json = prompts.map(|prompt| serde_json::json!({ "prompt": prompt }).to_string());
    place.write("prompts.jsonl", format!("{}\n\"x\"\n", in_json.join("\n")));
    let many = generate(&["--prompts", "prompts.txt", "--samples", "3", "--seed", "5"]);
    assert_eq!(many.len(), 9);
    let places = many
        .iter()
        .map(|line| [&line["request"], &line["sample"]].map(|place| place.as_u64()));
    assert!(places.is_sorted(), "in the order that they were asked for");
    for line in &many {
        let (prompt, sample) = (
            line["prompt"].as_str().unwrap(),
            line["sample"].as_u64().unwrap(),
        );
        assert_eq!(prompt, prompts[line["request"].as_u64().unwrap() as usize]);
        let seed = (5 + sample).to_string();
        let alone = generate(&["--prompt", prompt, "--seed", &seed]);
        assert_eq!(line["text"], alone[0]["text"], "{prompt}, {sample}");
    }
    let from_json = generate(&["--prompts", "prompts.jsonl", "--seed", "5"]);
    let texts = |lines: &[serde_json::Value], request: u64| {
        let line = lines
            .iter()
            .find(|line| line["request"] == request && line["sample"] == 0);
        line.unwrap()["text"].clone()
    };
    assert_eq!(from_json.len(), 4);
    for request in 0..3 {
        assert_eq!(texts(&from_json, request), texts(&many, request));
    }
    assert_eq!(texts(&from_json, 3), texts(&many, 1));
    let shown = place.run(&[
        "generate",
        "--model",
        "a",
        "--samples",
        "2",
        "--tokens",
        "3",
    ]);
    let shown = shown.succeeds();
    assert_eq!(shown.stdout.matches("=== prompt 1, sample ").count(), 2);
    assert!(
        shown.stderr.contains("first token came after"),
        "{}",
        shown.stderr
    );

    fs::write(place.path("bytes.txt"), b"\xef\xbb\xbfa\xff\r\n \n").unwrap();
    let bytes = generate(&["--prompts", "bytes.txt"]);
    let prompts: Vec<&str> = bytes
        .iter()
        .map(|line| line["prompt"].as_str().unwrap())
        .collect();
    assert_eq!(prompts, ["a\u{fffd}"]);
    place.write("broken.jsonl", "\"a\"\n{\"text\": 1}\n");
    let run = |more: &[&str]| place.run(&[&["generate", "--model", "a"][..], more].concat());
    run(&["--prompts", "broken.jsonl"]).is_refused(2, &["--prompts", "line 2"]);
    run(&["--prompts", "/dev/null"]).is_refused(2, &["--prompts", "empty"]);
    run(&["--prompts", "none"]).is_refused(1, &["cannot read none"]);
    run(&["--samples", "2", "--save-state", "s"]).is_refused(2, &["--save-state", "one sample"]);
    run(&["--save-state", "none/s"]).is_refused(1, &["cannot write none/s"]);
    run(&["--logit-bias", "256=1"]).is_refused(2, &["logit bias", "no token 256"]);
    let forbidden: Vec<String> = (0..256)
        .map(|byte| format!("--logit-bias={byte}=-inf"))
        .collect();
    let forbidden: Vec<&str> = forbidden.iter().map(String::as_str).collect();
    for options in [&forbidden[..], &["--repetition-penalty", "1e-40"]] {
        run(options).fails(2, &["bias and penalties leave no token"]);
    }
}

#[test]
fn a_text_ends_before_a_stop_string_and_tells_its_log_probabilities() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let generate = |more: &[&str]| {
        let start = [
            "generate", "--model", "a", "--prompt", "the ", "--tokens", "60", "--json",
        ];
        place
            .run(&[&start[..], more].concat())
            .succeeds()
            .json_lines()
            .remove(0)
    };
    // Letters only, so that characters are bytes.
    let biases: Vec<String> = (0..256)
        .filter(|byte| !(97..123).contains(byte))
        .map(|byte| format!("--logit-bias={byte}=-inf"))
        .collect();
    let letters: Vec<&str> = biases.iter().map(String::as_str).collect();
    let whole = generate(&letters);
    let text = whole["text"].as_str().unwrap();
    assert!(
        text.len() == 60 && text.bytes().all(|byte| byte.is_ascii_lowercase()),
        "{text}"
    );
    assert_eq!(whole["end"], "length");
    let stop = &text[20..23];
    let stopped = generate(&[&letters[..], &["--stop", "never", "--stop", stop]].concat());
    assert_eq!(stopped["end"], "stop");
    assert_eq!(stopped["text"], text[..text.find(stop).unwrap()]);
    assert_eq!(
        generate(&[&letters[..], &["--stop", "NEVER"]].concat())["text"],
        text
    );
    for wrong in [&["--stop", ""][..], &["--logprobs", "1"]] {
        let ran = place.run(&[&["generate", "--model", "a"][..], wrong].concat());
        assert_eq!(ran.code, Some(2), "{wrong:?}: {}", ran.stderr);
    }

    let told = generate(&["--logprobs", "256", "--temperature", "0"]);
    let told = told["log_probs"].as_array().unwrap();
    assert_eq!(told.len(), 60);
    for token in told {
        let top = token["top"].as_array().unwrap();
        assert_eq!(
            (&top[0]["token"], &top[0]["log_prob"]),
            (&token["token"], &token["log_prob"])
        );
        let sum: f64 = top
            .iter()
            .map(|one| one["log_prob"].as_f64().unwrap().exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }
}

#[test]
fn a_saved_state_goes_on_where_the_text_ended_and_with_its_own_model_alone() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    place
        .train_text(&["--quiet", "--name", "b", "--seed", "9"])
        .succeeds();
    let run = |model: &str, more: &[&str]| {
        place.run(
            &[
                &["generate", "--json", "--seed", "3", "--model", model][..],
                more,
            ]
            .concat(),
        )
    };
    let text = |more: &[&str]| {
        run("a", more).succeeds().json_lines().remove(0)["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    // Letters only, as the bytes of a character may come before and after.
    let biases: Vec<String> = (0..256)
        .filter(|byte| !(97..123).contains(byte))
        .map(|byte| format!("--logit-bias={byte}=-inf"))
        .collect();
    let text = |more: &[&str]| {
        text(
            &[
                &biases.iter().map(String::as_str).collect::<Vec<_>>()[..],
                more,
            ]
            .concat(),
        )
    };
    let whole = text(&["--prompt", "the snake", "--tokens", "30"]);
    for cut in [0, 11] {
        let (before, after) = (cut.to_string(), (30 - cut).to_string());
        let first = text(&[
            "--prompt",
            "the snake",
            "--tokens",
            &before,
            "--save-state",
            "s",
        ]);
        let second = text(&["--state", "s", "--tokens", &after]);
        assert_eq!(whole, first + &second);
    }
    let more = text(&[
        "--state",
        "s",
        "--prompt",
        " and",
        "--tokens",
        "5",
        "--save-state",
        "s2",
    ]);
    assert_eq!(more.len(), 5);

    run("b", &["--state", "s"]).is_refused(1, &["s: ", "another model"]);
    place.write(
        "symbols.json",
        serde_json::json!({ "symbols": ["a", "b"] }).to_string(),
    );
    let other = ["--state", "s", "--tokenizer", "symbols.json"];
    run("a", &other).is_refused(1, &["s: ", "another tokenizer"]);
    let bytes = fs::read(place.path("s")).unwrap();
    place.write("cut", &bytes[..bytes.len() - 5]);
    run("a", &["--state", "cut"]).is_refused(1, &["cut", "truncated"]);
    run("a", &["--state", "none"]).is_refused(1, &["cannot read none"]);
    let model = "runs/a/model/model.safetensors";
    run("a", &["--state", model]).is_refused(1, &[model, "serpens.state"]);
    run("a", &["--save-state", "no/s"]).fails(1, &["cannot write no/s"]);
}

#[test]
fn states_are_held_in_bf16_where_that_is_asked_and_every_layer_has_such() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let h3 = [
        "--quiet",
        "--name",
        "b",
        "--set",
        "model.block={ kind = \"h3\" }",
    ];
    place.train_text(&h3).succeeds();
    let generate = |model: &str, more: &[&str]| {
        let start = "generate --device cpu --prompt the --tokens 20 --json --logprobs 1 --model";
        let start: Vec<&str> = start.split(' ').chain([model]).collect();
        place.run(&[&start[..], more].concat())
    };
    let told = |states: &[&str]| {
        let value = generate("a", states).succeeds().json_lines().remove(0);
        value["log_probs"].clone()
    };
    assert_eq!(told(&[]), told(&["--states", "f32"]));
    assert_ne!(told(&[]), told(&["--states", "bf16"]));
    generate("b", &["--states", "f32"]).succeeds();
    let words = [
        "states = bf16 is not possible",
        "layer 0 keeps its state in f32",
    ];
    generate("b", &["--states", "bf16"]).is_refused(2, &words);
    let wrong = generate("a", &["--states", "f16"]);
    assert_eq!(wrong.code, Some(2));
    let words = [
        "invalid value 'f16' for '--states",
        "possible values: f32, bf16",
    ];
    assert!(
        words.iter().all(|words| wrong.stderr.contains(words)),
        "{}",
        wrong.stderr
    );
}

#[test]
fn a_tokenizer_beside_the_model_or_given_is_asked_for_its_text() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let symbols: Vec<String> = ('a'..='o')
        .map(String::from)
        .chain(["<s>".to_owned()])
        .collect();
    let table =
        serde_json::json!({ "symbols": symbols, "special": ["<s>"], "begin": "<s>", "skip": "\n" });
    place.write("runs/a/model/symbols.json", table.to_string());
    let generate = |more: &[&str]| {
        place.run(
            &[
                &["generate", "--model", "a", "--json", "--tokens", "20"][..],
                more,
            ]
            .concat(),
        )
    };
    let text = generate(&["--prompt", "abc"])
        .succeeds()
        .json_lines()
        .remove(0)["text"]
        .clone();
    let text = text.as_str().unwrap();
    assert!(
        !text.is_empty() && text.chars().all(|letter| ('a'..='o').contains(&letter)),
        "{text}"
    );
    // A prompt of no tokens begins as the tokenizer says; one that the tokenizer does not read is refused.
    generate(&[]).succeeds();
    generate(&["--prompt", "xyz"]).is_refused(1, &["no symbol for 'x'"]);
    let inspected = place
        .run(&["inspect", "--model", "a", "--json", "--prompt", "abc"])
        .succeeds();
    assert_eq!(
        inspected.json_lines()[0]["tokens"],
        serde_json::json!(["<s>", "a", "b", "c"])
    );
    place.write(
        "few.json",
        serde_json::json!({ "symbols": ["a", "b"], "skip": "\n" }).to_string(),
    );
    generate(&["--tokenizer", "few.json"]).is_refused(2, &["no token to begin with"]);
    let many: Vec<String> = (0..17).map(|i| format!("<{i}>")).collect();
    place.write(
        "many.json",
        serde_json::json!({ "symbols": many }).to_string(),
    );
    generate(&["--tokenizer", "many.json"]).is_refused(1, &["17 tokens", "16"]);
    generate(&["--tokenizer", "none.json"]).is_refused(1, &["cannot read none.json"]);
}

#[test]
fn a_model_of_a_task_is_inspected_and_writes_no_text() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    place
        .run(&["generate", "--model", "runs/a"])
        .is_refused(1, &["runs/a/model", "16 tokens", "--tokenizer"]);

    let inspect =
        |more: &[&str]| place.run(&[&["inspect", "--model", "runs/a"][..], more].concat());
    let text = inspect(&[]).succeeds().stdout;
    assert!(
        text.contains("layer 1") && !text.contains('\u{1b}'),
        "{text}"
    );
    let json = inspect(&["--json"]).succeeds().json_lines();
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["tokens"].as_array().unwrap().len(), 64);
    assert_eq!(json[0]["layers"].as_array().unwrap().len(), 1);
    let json = inspect(&["--json", "--prompt", "3 1 15 2"])
        .succeeds()
        .json_lines();
    assert_eq!(json[0]["tokens"], serde_json::json!(["3", "1", "15", "2"]));

    assert_eq!(inspect(&["--out", "x.svg"]).succeeds().stdout, "x.svg\n");
    assert!(
        fs::read_to_string(place.path("x.svg"))
            .unwrap()
            .starts_with("<svg")
    );
    inspect(&["--out", "x.html"]).succeeds();
    assert!(
        fs::read_to_string(place.path("x.html"))
            .unwrap()
            .contains("</html>")
    );

    inspect(&["--out", "x.png"]).is_refused(2, &["--out", "x.png", ".svg or .html"]);
    inspect(&["--out", "none/x.svg"]).is_refused(1, &["cannot write none/x.svg"]);
    for prompt in ["99", "-1", "word", " "] {
        let prompt = format!("--prompt={prompt}");
        inspect(&[&prompt]).is_refused(2, &["--prompt"]);
    }
    let twin = ["inspect", "--model", "runs/a/twin", "--prompt", "1 2"];
    place
        .run(&twin)
        .is_refused(1, &["runs/a/twin/model", "no selective layers"]);
}

#[test]
fn a_model_of_values_that_are_no_numbers_is_not_drawn() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let weights = place.path("runs/a/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[header..].chunks_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(&weights, bytes).unwrap();
    let args = ["inspect", "--model", "a", "--prompt", "the fox"];
    place
        .run(&args)
        .is_refused(1, &["model.safetensors", "digest", "--no-verify"]);
    let args = [&args[..], &["--no-verify"]].concat();
    let generate = ["generate", "--model", "a", "--no-verify"];
    for args in [&args[..], &generate] {
        let words = ["runs/a/model/model.safetensors", "parameter", "no numbers"];
        place.run(args).is_refused(1, &words);
    }
}

#[test]
fn a_selection_map_holds_step_sizes_and_what_is_kept_of_each_token() {
    let place = TestFolder::new();
    place.train_text(&["--quiet", "--name", "a"]).succeeds();
    let args = [
        "inspect", "--model", "runs/a", "--prompt", "the fox", "--json",
    ];
    let map = place.run(&args).succeeds().json_lines().remove(0);
    let layer = &map["layers"][0];
    let channels = layer["channels"].as_u64().unwrap() as usize;
    let values = |key: &str| -> Vec<f64> {
        let values = layer[key].as_array().unwrap().iter();
        values.map(|value| value.as_f64().unwrap()).collect()
    };
    let (delta, retention) = (values("delta"), values("retention")); // (length, channels)
    assert_eq!((delta.len(), retention.len()), (7 * channels, 7 * channels));
    assert!(delta.iter().all(|delta| *delta > 0.0));
    // Nothing of the last token is lost yet, and of an earlier token less is left than of the next.
    assert!(retention[6 * channels..].iter().all(|kept| *kept == 1.0));
    assert!((0..6 * channels).all(|i| retention[i] < retention[i + channels]));
}

#[test]
fn a_sample_is_one_of_the_task_that_the_run_learnt() {
    let place = TestFolder::new();
    let tiny = [
        "task.batch=1",
        "task.length=12",
        "task.data_tokens=3",
        "model.d_model=8",
    ];
    let more = [
        "--quiet",
        "--steps",
        "1",
        "--set",
        "evaluate.samples=1",
        "--name",
        "a",
    ];
    let train = with_settings(&["train", "selective-copying"], &tiny, &more);
    place.run(&train).succeeds();
    for model in ["runs/a", "runs/a/model", "runs/a/checkpoints/step-0000001"] {
        let shown = place.run(&["inspect", "--model", model]).succeeds().stdout;
        // Noise, and questions.
        assert!(
            shown.contains('·') && shown.contains('?'),
            "{model}: {shown}"
        );
    }
}

#[test]
fn recipes_are_listed_and_shown_as_they_can_be_used() {
    let place = TestFolder::new();
    let list = place.run(&["recipes"]).succeeds().stdout;
    for name in [
        "induction-heads",
        "induction-heads-short",
        "selective-copying",
        "text",
    ] {
        assert!(
            list.lines()
                .any(|line| line.split(' ').next() == Some(name)),
            "{list}"
        );
        let shown = place.run(&["recipes", "show", name]).succeeds().stdout;
        assert!(shown.contains("[train]"), "{shown}");
    }
    let (_, models) = list
        .split_once("--set model=NAME")
        .expect("models have a heading");
    assert!(models.contains("\nmamba-mlp "), "{models}");
    let shown = place
        .run(&["recipes", "show", "mamba-mlp"])
        .succeeds()
        .stdout;
    assert!(shown.contains("layers = \"MF\""), "{shown}");
    let recipe = place
        .run(&["recipes", "show", "induction-heads"])
        .succeeds()
        .stdout;
    place.write("mine.toml", recipe);
    let args = crate::support::with_settings(
        &["train", "--recipe", "mine.toml", "--quiet"],
        crate::support::TINY,
        &[],
    );
    place.run(&args).succeeds();
}

#[test]
fn the_doctor_speaks_to_people_and_programs() {
    let place = TestFolder::new();
    let text = place.run(&["doctor"]).succeeds().stdout;
    assert!(
        text.contains("cores") && text.contains("memory reading"),
        "{text}"
    );
    let json = place
        .run(&["doctor", "--json", "--threads", "1"])
        .succeeds()
        .json_lines();
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["threads"], 1);
    assert!(json[0]["memory_read_gb_per_s"].as_f64().unwrap() > 0.0);
}
