//! Models that answer: `train classify`, `train forecast`, `predict`.

use std::fs;

use serde_json::Value;

use crate::support::{TestFolder, with_settings};

/// A model that learns in a second.
const SMALL: &[&str] = &[
    "model.d_model=16",
    "model.n_layer=1",
    "model.block.inner.d_state=4",
    "train.log_every=10",
    "train.eval_every=20",
    "train.checkpoint_every=20",
    "train.optimizer.lr=1e-2",
];

/// Records of two classes that differ in what follows an A, in folders of the classes' names.
fn apart(place: &TestFolder) {
    for (class, unit) in [("acg", "ACGT"), ("atg", "ATGC")] {
        fs::create_dir_all(place.path(&format!("dna/{class}"))).unwrap();
        for number in 0..12 {
            let text = format!(">r{number} of {class}\n{}\n", unit.repeat(24 + number));
            place.write(&format!("dna/{class}/{number}.fa"), text);
        }
    }
}

/// A sine of 12 rows beside a ramp of 6, as a table.
fn waves(rows: usize) -> String {
    let row = |t: usize| {
        let sine = (t as f64 * std::f64::consts::TAU / 12.0).sin();
        format!("2026-01-{t},{:.4},{}\n", 100.0 + 3.0 * sine, t % 6)
    };
    format!("day,sine,ramp\n{}", (0..rows).map(row).collect::<String>())
}

#[test]
fn a_classifier_learns_and_answers_for_new_files() {
    let place = TestFolder::new();
    apart(&place);
    let settings = [SMALL, &["task.length=64", "task.batch=8", "train.steps=40"]].concat();
    let train = ["train", "classify", "--data", "dna", "--device", "cpu"];
    let ran = place
        .run(&with_settings(&train, &settings, &["--json"]))
        .succeeds();
    let lines = ran.json_lines();
    let rows = lines.last().unwrap()["table"]["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2, "the model and the baseline: {names:?}");
    for row in rows {
        let accuracy = row[1].as_str().unwrap();
        assert!(accuracy.starts_with("100.0 %"), "{row}");
    }
    let report = fs::read_to_string(place.path("runs/classify-1/report.html")).unwrap();
    for words in ["What S6 answers", "acg", "atg", "What S6 selects"] {
        assert!(report.contains(words), "{words}");
    }

    place.write(
        "new.fa",
        format!(">x\n{}\n>y\n{}\n", "ATGC".repeat(40), "ACGT".repeat(10)),
    );
    let predict = ["predict", "--model", "classify-1", "--data", "new.fa"];
    let told = place.run(&predict).succeeds().stdout;
    let rows: Vec<Vec<&str>> = told.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        rows[0],
        ["file", "record", "label", "probability", "p(acg)", "p(atg)"]
    );
    assert_eq!(rows[1][..3], ["new.fa", "x", "atg"]);
    assert_eq!(rows[2][..3], ["new.fa", "y", "acg"]);
    let in_json = place
        .run(&[&predict[..], &["--json"]].concat())
        .succeeds()
        .json_lines();
    assert_eq!(in_json.len(), 2);
    let sum = ["p(acg)", "p(atg)"].map(|name| in_json[0][name].as_f64().unwrap());
    assert!(
        (sum[0] + sum[1] - 1.0).abs() < 1e-5 && sum[1] > 0.5,
        "{sum:?}"
    );
}

#[test]
fn a_classifier_is_resumed_in_the_middle_of_an_epoch_to_the_bit() {
    let place = TestFolder::new();
    apart(&place);
    let settings = [
        SMALL,
        &["task.length=48", "task.batch=3", "train.schedule=constant"],
    ]
    .concat();
    let train = |more: &[&str]| {
        let start = [
            "train", "classify", "--data", "dna", "--device", "cpu", "--quiet",
        ];
        place
            .run(&with_settings(&[&start[..], more].concat(), &settings, &[]))
            .succeeds();
    };
    train(&["--name", "whole", "--steps", "9"]);
    train(&["--name", "halved", "--steps", "4"]);
    let resume = [
        "train", "--resume", "halved", "--steps", "9", "--device", "cpu", "--quiet",
    ];
    place.run(&resume).succeeds();
    let model =
        |run: &str| fs::read(place.path(&format!("runs/{run}/model/model.safetensors"))).unwrap();
    assert!(model("whole") == model("halved"));
}

#[test]
fn a_forecast_beats_the_baselines_beside_it_and_tells_the_next_rows() {
    let place = TestFolder::new();
    place.write("t.csv", waves(600));
    let settings = [
        SMALL,
        &[
            "task.length=48",
            "task.horizon=6",
            "task.batch=8",
            "train.steps=120",
        ],
    ]
    .concat();
    let train = ["train", "forecast", "--data", "t.csv", "--device", "cpu"];
    let ran = place
        .run(&with_settings(&train, &settings, &["--json"]))
        .succeeds();
    let rows = ran.json_lines().last().unwrap()["table"]["rows"].clone();
    let error = |row: usize| rows[row][1].as_str().unwrap().parse::<f64>().unwrap();
    assert_eq!(rows[1][0], "persistence");
    assert!(error(0) < 0.5 * error(1), "{rows}");
    assert!(
        rows[2][0].as_str().unwrap().starts_with("seasonal-naive"),
        "{rows}"
    );

    let told = place
        .run(&["predict", "--model", "forecast-1", "--data", "t.csv"])
        .succeeds()
        .stdout;
    let rows: Vec<Vec<&str>> = told.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["file", "record", "ahead", "sine", "ramp"]);
    assert_eq!(rows.len(), 7);
    let first: f64 = rows[1][3].parse().unwrap();
    assert!(
        (first - 100.0).abs() < 2.0,
        "row 600 of the sine is 100: {first}"
    );

    place.write("other.csv", "day,sine\n1,2\n");
    place
        .run(&["predict", "--model", "forecast-1", "--data", "other.csv"])
        .fails(1, &["other.csv", "ramp"]);
}

#[test]
fn labels_come_from_folders_files_tables_and_patterns() {
    let place = TestFolder::new();
    apart(&place);
    let classes = |labels: &[&str]| {
        let look = [&["data", "look", "dna", "--json"][..], labels].concat();
        let told: Value = place.run(&look).succeeds().json_lines()[0].clone();
        told["classes"].clone()
    };
    let expected = serde_json::json!({ "acg": 12, "atg": 12 });
    assert_eq!(classes(&[]), expected);
    assert_eq!(classes(&["--labels", "folder"]), expected);
    place.write("table.csv", "name,label\nacg/0.fa,one\natg/1.fa,two\n");
    let some = serde_json::json!({ "one": 1, "two": 1, "without a label": 22 });
    assert_eq!(classes(&["--labels", "table.csv"]), some);
    let by_name = classes(&["--labels", "{label}.fa:*"]);
    assert_eq!(by_name.as_object().unwrap().len(), 12);
    place
        .run(&["data", "look", "dna", "--labels", "nothing"])
        .fails(1, &["nothing", "folder, file"]);
}

#[test]
fn what_cannot_be_classified_is_refused_in_a_line() {
    let place = TestFolder::new();
    apart(&place);
    let refused = |data: &str, more: &[&str], words: &[&str]| {
        let start = ["train", "classify", "--data", data, "--device", "cpu"];
        place.run(&[&start[..], more].concat()).fails(2, words)
    };
    refused(
        "dna/acg",
        &["--labels", "folder"],
        &["--labels", "1 classes", "acg"],
    );
    refused("dna", &["--set", "task.hold_out=[\"nobody\"]"], &["nobody"]);
    place.write("dna/acg/0.fa", ">x\nMKVLAA\n");
    refused("dna", &[], &["acg/0.fa", "line 2"]);
    place.write("dna/acg/0.fa", "");
    fs::create_dir(place.path("dna/acg/x.fa")).unwrap();
    refused("missing", &[], &["missing"]);
    refused(
        "dna",
        &["--set", "task.validation=0"],
        &["task.validation", "nothing is held out"],
    );
    refused(
        "dna",
        &["--tokenizer", "bytes"],
        &["task.tokenizer", "task.content"],
    );
}
