//! `train dna`, `train audio`: sequences that are no text.

use std::fs;

use crate::support::{TestFolder, with_settings};

const SMALL: &[&str] = &[
    "model.d_model=16",
    "model.n_layer=1",
    "model.block.inner.d_state=4",
    "task.batch=4",
    "task.length=64",
    "train.steps=60",
    "train.eval_every=30",
    "train.log_every=10",
    "train.optimizer.lr=1e-2",
];

/// A mono WAV file of 16 bits.
fn wav(rate: u32, samples: impl Iterator<Item = i16>) -> Vec<u8> {
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((2 * rate).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn dna_is_learnt_beside_a_markov_model_and_written_in_letters() {
    let place = TestFolder::new();
    let record = |name: &str, unit: &str| format!(">{name} a contig\n{}\n", unit.repeat(300));
    place.write(
        "x.fa",
        [record("one", "ACGGT"), record("two", "ACGGT")].concat(),
    );
    let train = [
        "train", "dna", "--data", "x.fa", "--device", "cpu", "--json",
    ];
    let more = ["--baseline", "3", "--set", "task.hold_out=[\"two\"]"];
    let ran = place.run(&with_settings(&train, SMALL, &more)).succeeds();
    let rows = ran.json_lines().last().unwrap()["table"].clone();
    assert_eq!(rows["header"][1], "bits per base");
    assert!(
        rows["rows"][1][0]
            .as_str()
            .unwrap()
            .starts_with("Markov, order")
    );
    for row in rows["rows"].as_array().unwrap() {
        let bits: f64 = row[1].as_str().unwrap().parse().unwrap();
        assert!(bits < 0.5, "what repeats is known: {row}");
    }
    let report = fs::read_to_string(place.path("runs/dna-1/report.html")).unwrap();
    for words in ["The worth of context", "What S6 selects", "Bits per base"] {
        assert!(report.contains(words), "{words}");
    }
    let generate = [
        "generate", "--model", "dna-1", "--prompt", "acggt", "--tokens", "20",
    ];
    place
        .run(&["generate", "--model", "dna-1"])
        .fails(2, &["--prompt", "ACGT"]);
    let told = place.run(&generate).succeeds().stdout;
    let letters = told.trim().trim_start_matches("acggt");
    assert!(
        letters.len() == 20 && letters.chars().all(|c| "ACGT".contains(c)),
        "{told}"
    );
}

#[test]
fn sound_is_learnt_beside_a_markov_model_and_written_as_a_file() {
    let place = TestFolder::new();
    let sine = |t: u32| ((f64::from(t) * 0.3).sin() * 9000.0) as i16;
    place.write("x.wav", wav(8000, (0..8000).map(sine)));
    let train = [
        "train", "audio", "--data", "x.wav", "--device", "cpu", "--json",
    ];
    let ran = place.run(&with_settings(&train, SMALL, &[])).succeeds();
    let rows = ran.json_lines().last().unwrap()["table"].clone();
    assert_eq!(rows["header"][1], "bits per sample");
    assert!(
        rows["rows"][1][0]
            .as_str()
            .unwrap()
            .starts_with("Markov, order")
    );
    let report = fs::read_to_string(place.path("runs/audio-1/report.html")).unwrap();
    assert!(report.contains("Written by S6") && report.contains("<audio"));

    let eval = ["eval", "audio-1", "perplexity", "--data", "x.wav", "--json"];
    let told = place.run(&eval).succeeds().json_lines();
    assert_eq!(told[0]["tokens"], 7999, "samples, without a header");

    let generate = ["generate", "--model", "audio-1", "--tokens", "400"];
    place.run(&generate).fails(2, &["--wav"]);
    let more = ["--wav", "out.wav", "--prompt-file", "x.wav"];
    place.run(&[&generate[..], &more].concat()).succeeds();
    let written = fs::read(place.path("out.wav")).unwrap();
    assert_eq!(&written[..4], b"RIFF");
    assert_eq!(written.len(), 44 + 2 * (8000 + 400));
}
