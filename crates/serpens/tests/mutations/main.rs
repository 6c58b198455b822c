//! Mutations of what strangers may give: any error will do, a panic will not. `fuzz/` looks further, for longer.

mod targets;

use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens::nn::checkpoint::{CONFIG_FILE, WEIGHTS_FILE};
use serpens::recipe::BUILT_IN;
use zip::ZipArchive;

/// What is put where something else was.
const WORDS: &[&[u8]] = &[
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"9223372036854775807",
    b"nan",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"\n",
    b"\\u0000",
    b"../..",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
];

/// Some changes at some places.
fn mutate(seed: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let from = rng.random_range(0..=bytes.len());
        let to = (from + rng.random_range(0..12)).min(bytes.len());
        match rng.random_range(0..5) {
            0 if from < bytes.len() => bytes[from] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => bytes.truncate(from.max(to)),
            _ => {
                let word = WORDS.choose(rng).expect("there are some");
                drop(bytes.splice(from..to, word.iter().copied()));
            }
        }
    }
    bytes
}

/// Runs a target on each seed and on so many mutants of them, the same ones every time.
fn attack(target: fn(&[u8]), seeds: &[Vec<u8>], rounds: usize) {
    let rounds =
        std::env::var("SERPENS_MUTATIONS").map_or(rounds, |n| n.parse().expect("a number"));
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    seeds.iter().for_each(|seed| target(seed));
    for round in 0..rounds {
        let mutant = mutate(&seeds[round % seeds.len()], &mut rng);
        if catch_unwind(AssertUnwindSafe(|| target(&mutant))).is_err() {
            panic!("round {round}: {:?}", String::from_utf8_lossy(&mutant));
        }
    }
}

#[test]
fn recipes() {
    let seeds: Vec<Vec<u8>> = BUILT_IN
        .iter()
        .map(|(_, text)| text.as_bytes().to_vec())
        .collect();
    attack(targets::recipe, &seeds, 400);
}

#[test]
fn configurations() {
    let config = fs::read(targets::model_file(CONFIG_FILE)).unwrap();
    let own =
        r#"{"model_type": "serpens", "serpens": {"d_model": 8, "n_layer": 1, "vocab_size": 11}}"#;
    let original = r#"{"d_model": 8, "n_layer": 1, "vocab_size": 11, "pad_vocab_size_multiple": 1, "ssm_cfg": {"d_state": 16}}"#;
    attack(targets::config, &[config, own.into(), original.into()], 400);
}

#[test]
fn weights_and_indices() {
    let weights = fs::read(targets::model_file(WEIGHTS_FILE)).unwrap();
    attack(targets::safetensors, &[weights], 400);
    let index = br#"{"weight_map": {"a": "model.safetensors", "b": "mutant.safetensors"}}"#;
    attack(targets::index, &[index.to_vec()], 400);
}

/// A file that another program wrote.
fn foreign(name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    crates.join("serpens-formats/tests/data").join(name)
}

#[test]
fn gguf_files() {
    // A small one that is a model.
    let model = "../../../serpens-nn/tests/fixtures/gguf/q8_0.gguf";
    let seeds = ["v2.gguf", "v3.gguf", model].map(|name| fs::read(foreign(name)).unwrap());
    attack(targets::gguf, &seeds, 600);
}

#[test]
fn pytorchs_files_and_pickles() {
    let mut seeds = Vec::new();
    for name in [
        "protocol1.pt",
        "protocol2.pt",
        "protocol5.pt",
        "lightning.ckpt",
        "sparse.pt",
    ] {
        let path = foreign(name);
        seeds.push(fs::read(&path).unwrap());
        let mut zip = ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
        let folder = path.file_stem().unwrap().to_str().unwrap();
        let mut pickle = Vec::new();
        let mut file = zip.by_name(&format!("{folder}/data.pkl")).unwrap();
        file.read_to_end(&mut pickle).unwrap();
        seeds.push(pickle);
    }
    attack(targets::pickle, &seeds, 1000);
}

#[test]
fn tokenizers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../serpens-data/tests/tokenizers");
    let files = ["byte-level.json", "byte-fallback.json", "unigram.json"];
    let mut seeds: Vec<Vec<u8>> = files
        .map(|name| fs::read(folder.join(name)).unwrap())
        .into();
    seeds.push(br#"{"symbols": ["<s>", "<u>", "L", "LA", "G"], "special": ["<s>", "<u>"], "unknown": "<u>", "skip": "\n", "begin": "<s>"}"#.to_vec());
    seeds.push(
        b"{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3}\0#version: 0.2\na b\n".to_vec(),
    );
    attack(targets::tokenizer, &seeds, 600);
}

#[test]
fn reports() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let numbers: Vec<u8> = (0..40)
        .flat_map(|_| rng.random_range(-9.0..9.0_f64).to_le_bytes())
        .collect();
    let rest: Vec<u8> = (0..300).map(|_| rng.random()).collect();
    attack(
        targets::report,
        &[
            numbers,
            rest,
            b"a\nlonger text\n<b>&\n".to_vec(),
            Vec::new(),
        ],
        200,
    );
}
