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
        ["--prompt-file", "/dev/null"],
    ];
    for case in cases {
        let value = format!("{}={}", case[0], case[1]);
        let name = case[0].trim_start_matches("--").replace("on-p", "on p");
        let ran = place.run(&["generate", "--model", "runs/a", &value]);
        ran.is_refused(2, &[&name]);
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
fn a_model_of_a_task_is_inspected_and_writes_no_text() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    place
        .run(&["generate", "--model", "runs/a"])
        .is_refused(1, &["runs/a/model", "16 tokens", "256"]);

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
        .is_refused(1, &["model.safetensors", "digest"]);
    let args = [&args[..], &["--no-verify"]].concat();
    place
        .run(&args)
        .is_refused(1, &["runs/a/model", "no numbers"]);
    let args = ["generate", "--model", "a", "--no-verify"];
    place.run(&args).fails(1, &["NaN"]);
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
