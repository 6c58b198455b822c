//! `--device`, `--precision`, `--recompute`, and what the doctor says of a GPU.

use std::fs;

use serpens::core::Device;

use crate::support::{Ran, TestFolder};

/// Whether there is a GPU to use; says so where a test cannot do its half.
fn gpu(test: &str) -> bool {
    Device::cuda(0)
        .inspect_err(|reason| println!("{test}: skipped on CUDA: {reason}"))
        .is_ok()
}

#[test]
fn a_device_that_is_not_there_is_refused_with_what_is_missing() {
    let place = TestFolder::new();
    let reason = match Device::cuda(9) {
        Ok(_) => return println!("skipped: this machine has ten GPUs"),
        Err(reason) => reason.to_string(),
    };
    let words = ["--device", &reason, "--device cpu"];
    place
        .run(&["train", "--device", "cuda:9"])
        .is_refused(2, &words);
    let generate = ["generate", "--model", ".", "--device", "cuda:9"];
    place.run(&generate).is_refused(2, &words);
    place
        .run(&["bench", "--device", "cuda:9"])
        .is_refused(2, &words);
    assert!(!place.path("runs").exists());
}

#[test]
fn the_processor_refuses_the_precisions_of_a_gpu() {
    let place = TestFolder::new();
    for precision in ["bf16", "tf32"] {
        let ran = place.run(&["train", "--device", "cpu", "--precision", precision]);
        ran.is_refused(2, &["--precision", precision, "--device cuda"]);
    }
    if !gpu("the_processor_refuses_the_precisions_of_a_gpu") {
        // Where no device is named, the reason is that there is no GPU.
        let ran = place.run(&["train", "--precision", "bf16"]);
        ran.is_refused(2, &["--precision", "bf16", "was not found"]);
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let place = TestFolder::new();
    let cases = [
        ("--device", "gpu", "auto, cpu, cuda and cuda:N"),
        ("--device", "cuda:first", "auto, cpu, cuda and cuda:N"),
        ("--precision", "bf17", "a similar value exists: 'bf16'"),
        ("--precision", "double", "f32, tf32, bf16"),
        ("--recompute", "blocks", "a similar value exists: 'block'"),
        ("--recompute", "all", "none, scan, block"),
    ];
    for (option, value, words) in cases {
        let ran = place.run(&["train", option, value]);
        assert_eq!(ran.code, Some(2), "{option} {value}\n{}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn benches_of_a_gpu_are_refused_on_the_processor() {
    let place = TestFolder::new();
    for words in [
        ["conv", "--quick"],
        ["block", "--quick"],
        ["--batch", "8"],
        ["--length", "64,128"],
        ["--recompute", "scan"],
        ["--weights", "q8_0"],
        ["--states", "bf16"],
    ] {
        let ran = place.run(&[&["bench", "--device", "cpu"][..], &words].concat());
        ran.is_refused(2, &[words[0], "NVIDIA GPU"]);
    }
}

#[test]
fn decoding_is_measured_on_the_processor_in_a_shape_and_with_weights_that_are_named() {
    let place = TestFolder::new();
    let words = "bench decode --device cpu --quick --json --width 64 --layers 1 --vocab 300 --length 9 --batch 2";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.extend(["--weights", "q8_0", "--states", "bf16"]);
    let ran = place.run(&words).succeeds();
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows: Vec<&serde_json::Value> = (told["tables"].as_array().unwrap().iter().skip(1))
        .flat_map(|table| table["rows"].as_array().unwrap())
        .collect();
    let works: Vec<&str> = rows
        .iter()
        .map(|row| row["work"].as_str().unwrap())
        .collect();
    let shape = "1 × 64, V 300, states in bf16";
    let expected = [
        format!("q8_0, B 2, {shape}"),
        format!("q8_0, B 2, {shape}, behind 9 tokens"),
    ];
    assert_eq!(works, expected);
    for row in &rows {
        let told = [&row["weights"], &row["batch"], &row["states"]];
        assert_eq!(told.map(ToString::to_string), ["\"q8_0\"", "2", "\"bf16\""]);
    }
    assert!(rows.iter().all(|row| row["value"].as_f64().unwrap() > 0.0));
}

#[test]
fn decoding_says_what_weights_became_and_refuses_what_it_has_no_use_or_room_for() {
    let place = TestFolder::new();
    let decode = |words: &str| {
        let words = format!("bench decode --device cpu --quick --width 64 --layers 1 {words}");
        place.run(&words.split(' ').collect::<Vec<_>>())
    };
    let ran = decode("--vocab 300 --length 9 --batch 2 --weights q4_k").succeeds();
    let words = "q4_k (99 % in q8_0), B 2";
    assert_eq!(ran.stdout.matches(words).count(), 2, "{}", ran.stdout);
    for option in ["--channels", "--state"] {
        decode(&format!("{option} 12")).is_refused(2, &[option, "nothing that is measured"]);
    }
    decode("--recompute block").is_refused(2, &["--recompute", "nothing that is measured"]);
    decode("--vocab 300 --batch 4294967295").fails(2, &["--batch", "128"]);
}

#[test]
fn recomputing_changes_no_bit_of_a_model_trained_on_the_processor() {
    let place = TestFolder::new();
    for recompute in ["none", "scan", "block"] {
        let more = [
            "--name",
            recompute,
            "--device",
            "cpu",
            "--recompute",
            recompute,
        ];
        place.train(&more).succeeds();
    }
    let model =
        |name: &str| fs::read(place.path(&format!("runs/{name}/model/model.safetensors"))).unwrap();
    assert!(model("none") == model("scan"));
    assert!(model("none") == model("block"));
}

#[test]
fn a_run_tells_where_it_computes() {
    let place = TestFolder::new();
    let device = Device::best();
    let precision = if device == Device::Cpu { "f32" } else { "bf16" };
    let ran = place.train(&["--name", "a"]).succeeds();
    let words = format!("run runs/a, on {device} in {precision}");
    assert!(ran.stderr.contains(&words), "{}", ran.stderr);
    let page = fs::read_to_string(place.path("runs/a/report.html")).unwrap();
    assert!(page.contains(&format!("on {device} in {precision}")));
    let events = place
        .train(&["--name", "b", "--device", "cpu", "--json"])
        .succeeds()
        .json_lines();
    assert_eq!(events[0]["device"], "cpu");
    assert_eq!(events[0]["precision"], "f32");
    assert_eq!(events[0]["recompute"], "none");
}

#[test]
fn a_run_goes_on_on_another_device() {
    if !gpu("a_run_goes_on_on_another_device") {
        return;
    }
    let place = TestFolder::new();
    let losses = |ran: &Ran| -> Vec<f64> {
        let events = ran.json_lines();
        let steps = events.iter().filter(|event| event["event"] == "stepped");
        steps
            .map(|event| event["metrics"]["loss"].as_f64().unwrap())
            .collect()
    };
    for (first, second) in [("cpu", "cuda"), ("cuda", "cpu")] {
        let start = [
            "--name",
            first,
            "--device",
            first,
            "--precision",
            "f32",
            "--steps",
            "2",
            "--quiet",
        ];
        place.train(&start).succeeds();
        let resume = [
            "train",
            "--resume",
            first,
            "--device",
            second,
            "--precision",
            "f32",
            "--steps",
            "4",
            "--json",
        ];
        let resumed = losses(&place.run(&resume).succeeds());
        let whole = format!("{first}-whole");
        let whole = [
            "--name", &whole, "--device", "cpu", "--steps", "4", "--json",
        ];
        let expected = losses(&place.train(&whole).succeeds());
        assert_eq!(
            resumed.len(),
            expected.len() - 4,
            "the model's and the twin's last two steps"
        );
        for (a, b) in resumed
            .iter()
            .zip([&expected[2..4], &expected[6..8]].concat())
        {
            assert!(
                (a - b).abs() < 1e-4 * b,
                "{a} on {second} after {first}, {b} on the processor"
            );
        }
    }
}

#[test]
fn the_doctor_says_whether_a_gpu_can_be_used() {
    let place = TestFolder::new();
    let ran = place.run(&["doctor", "--json"]).succeeds();
    let told = &ran.json_lines()[0]["gpu"];
    let usable = Device::cuda(0).is_ok();
    assert_eq!(told["usable"], usable);
    for library in ["driver", "nvrtc", "cublaslt"] {
        let library = &told["libraries"][library];
        assert!(
            library["path"].is_string() || library["advice"].is_string(),
            "{told}"
        );
    }
    let verdict = told["verdict"].as_str().unwrap();
    let words = if usable {
        "computes on cuda:0"
    } else {
        "computes on the processor"
    };
    assert!(verdict.contains(words), "{verdict}");
    let text = place.run(&["doctor"]).succeeds().stdout;
    for words in ["NVIDIA driver", "NVRTC", "cuBLASLt", verdict] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(usable, text.contains("cuda:0 "), "{text}");
}
