//! Tokenizers against what the `tokenizers` package of Python says (scripts/make_tokenizers.py), saved and found again,
//! streamed, and given files that are none.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use serpens_data::{Error, Tokenizer, TokenizerError};
use serpens_formats::gguf::{Kind, Metadata};

const ALL: [&str; 3] = ["byte-level", "byte-fallback", "unigram"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers")
}

fn text_of(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.json"))).unwrap()
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(&folder().join(format!("{name}.json"))).unwrap()
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(&text_of("vectors")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn odd_texts_become_the_tokens_that_the_package_makes_of_them() {
    for vector in vectors() {
        let name = vector["tokenizer"].as_str().unwrap();
        let tokenizer = open(name);
        for case in vector["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoded = tokenizer.encode(text.as_bytes()).unwrap();
            assert_eq!(encoded, ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(tokenizer.begin(), ids(&case["begin"]), "{name}");
            let decoded = tokenizer.decode(&encoded);
            assert_eq!(
                String::from_utf8_lossy(&decoded),
                case["decoded"].as_str().unwrap(),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn what_begins_and_ends_a_text_is_known() {
    let ends = |name| open(name).end_of_text().to_vec();
    assert_eq!(
        (ends("byte-level"), ends("byte-fallback"), ends("unigram")),
        (vec![0], vec![2], vec![1])
    );
    assert_eq!(open("byte-fallback").begin(), [1]);
    assert!(open("byte-level").is_special(0) && !open("byte-level").is_special(500));
    assert_eq!(open("byte-level").token_text(1), "<|padding|>");
    let bytes = Tokenizer::bytes();
    assert!(bytes.begin().is_empty() && bytes.end_of_text().is_empty());
    assert_eq!(
        (bytes.vocab_size(), open("byte-level").vocab_size()),
        (256, 503)
    );
}

#[test]
fn files_beside_it_say_what_begins_and_ends_a_text() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let ends = || Tokenizer::open(dir.path()).unwrap().end_of_text().to_vec();
    write("tokenizer.json", &text_of("byte-level"));
    assert_eq!(ends(), [0]);
    write("config.json", r#"{"eos_token_id": 7}"#);
    assert_eq!(ends(), [7]);
    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "<|padding|>"}, "bos_token": "<|endoftext|>", "add_bos_token": true}"#,
    );
    assert_eq!(ends(), [1]);
    assert_eq!(Tokenizer::open(dir.path()).unwrap().begin(), [0]);
    write(
        "generation_config.json",
        r#"{"eos_token_id": [3, 4, 99999]}"#,
    );
    assert_eq!(ends(), [3, 4]);
    write("generation_config.json", "{");
    let broken = Tokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(
        broken.contains("generation_config.json") && broken.lines().count() == 1,
        "{broken}"
    );
}

#[test]
fn a_saved_one_is_found_again_the_same() {
    for name in ALL {
        let (dir, tokenizer) = (tempfile::tempdir().unwrap(), open(name));
        tokenizer.save(dir.path()).unwrap();
        let found = Tokenizer::find(dir.path()).unwrap().unwrap();
        assert_eq!(found, tokenizer);
        assert_eq!(
            (found.begin(), found.end_of_text()),
            (tokenizer.begin(), tokenizer.end_of_text())
        );
        found.save(dir.path()).unwrap();
        assert_eq!(Tokenizer::find(dir.path()).unwrap(), Some(tokenizer));
    }
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::bytes().save(dir.path()).unwrap();
    assert_eq!(Tokenizer::find(dir.path()).unwrap(), None);
    let marks: std::collections::HashSet<u64> = ALL.map(|name| open(name).fingerprint()).into();
    assert_eq!(marks.len(), 3);
}

#[test]
fn what_would_cut_or_fill_up_texts_is_left_out() {
    let mut file: Value = serde_json::from_str(&text_of("byte-level")).unwrap();
    file["truncation"] = serde_json::json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 });
    file["padding"] = serde_json::json!({
        "strategy": { "Fixed": 100 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1, "pad_type_id": 0, "pad_token": "<|padding|>",
    });
    file["model"]["dropout"] = 0.9.into();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let text = b"the licence of the work";
    assert_eq!(
        tokenizer.encode(text).unwrap(),
        open("byte-level").encode(text).unwrap()
    );
}

/// Lines long enough that a text of them is encoded in several blocks.
fn long_text() -> String {
    let odd = vectors();
    let odd = odd[0]["cases"].as_array().unwrap();
    let lines = (0..3000).map(|i| {
        let odd = odd[i % odd.len()]["text"].as_str().unwrap();
        let end = [
            "\n",
            " \n",
            "\n\n",
            "\r\n",
            ".\n",
            "e\n\u{301}",
            "\n   ",
            "  ",
        ][i % 8];
        format!("line {i} of a text that has {odd} and ends{end}")
    });
    lines.collect()
}

#[test]
fn a_long_text_gives_the_tokens_that_it_gives_whole() {
    let text = long_text();
    for name in ALL {
        let tokenizer = open(name);
        let whole =
            tokenizers::Tokenizer::from_file(folder().join(format!("{name}.json"))).unwrap();
        let whole = whole.encode_fast(&*text, false).unwrap();
        let encoded = tokenizer.encode(text.as_bytes()).unwrap();
        assert!(encoded == whole.get_ids(), "{name}");
    }
}

const PROTEINS: &str = r#"{
    "symbols": ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N", "F",
        "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "<null_1>", "<mask>"],
    "special": ["<cls>", "<pad>", "<eos>", "<unk>", "<null_1>", "<mask>"],
    "unknown": "<unk>", "skip": "\n", "begin": "<cls>", "end": "<eos>"
}"#;

fn table(text: &str) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("symbols.json"), text).unwrap();
    Tokenizer::open(dir.path())
}

#[test]
fn a_table_of_symbols_takes_the_longest_and_says_what_is_unknown() {
    let proteins = table(PROTEINS).unwrap();
    let text = b"MIV-R\n<mask>?<cls";
    let ids = proteins.encode(text).unwrap();
    assert_eq!(ids, [20, 12, 7, 30, 10, 32, 3, 3, 3, 3, 3]);
    assert_eq!(
        (
            proteins.begin(),
            proteins.end_of_text(),
            proteins.vocab_size()
        ),
        (&[0][..], &[2][..], 33)
    );
    assert_eq!(proteins.decode(&ids), b"MIV-R");
    let dir = tempfile::tempdir().unwrap();
    proteins.save(dir.path()).unwrap();
    assert_eq!(Tokenizer::find(dir.path()).unwrap(), Some(proteins));

    let codons = table(r#"{ "symbols": ["A", "AC", "ACG", "G"] }"#).unwrap();
    assert_eq!(codons.encode(b"ACGAACG").unwrap(), [2, 0, 2]);
    let refused = codons.encode("AÄ".as_bytes());
    assert!(matches!(refused, Err(TokenizerError::NoSymbol('Ä'))));
    let long = "ACG\nA".repeat(100_000);
    let lines = table(r#"{ "symbols": ["A", "C", "G", "\n"] }"#).unwrap();
    assert_eq!(
        lines.encode(long.as_bytes()).unwrap(),
        [0, 1, 2, 3, 0].repeat(100_000)
    );
    for broken in [
        r#"{ "symbols": ["A", ""] }"#,
        r#"{ "symbols": ["A"], "end": "B" }"#,
        r#"{ "symbols": ["A"], "sep": 1 }"#,
    ] {
        let error = table(broken).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Tokenizer {
                    source: TokenizerError::Broken(_),
                    ..
                }
            ),
            "{error}"
        );
    }
}

/// The two files of GPT-2 that make the same tokenizer as this one.
fn gpt2_files(dir: &Path, names: [&str; 2]) {
    let file: Value = serde_json::from_str(&text_of("byte-level")).unwrap();
    let merges = file["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| {
        format!(
            "{} {}\n",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        )
    });
    let merges: String = merges.collect();
    fs::write(dir.join(names[0]), file["model"]["vocab"].to_string()).unwrap();
    fs::write(dir.join(names[1]), format!("#version: 0.2\n{merges}")).unwrap();
}

#[test]
fn gpt2_has_two_files_of_either_name() {
    let text = "It's a licence, 2026:\n\n   the ‘Work’ <|endoftext|>";
    let expected = open("byte-level").encode(text.as_bytes()).unwrap();
    for names in [["encoder.json", "vocab.bpe"], ["vocab.json", "merges.txt"]] {
        let dir = tempfile::tempdir().unwrap();
        gpt2_files(dir.path(), names);
        let found = Tokenizer::find(dir.path()).unwrap().unwrap();
        // Runs of spaces are no tokens there.
        let text = text.replace("   ", " ");
        let plain = open("byte-level").encode(text.as_bytes()).unwrap();
        assert_eq!(found.encode(text.as_bytes()).unwrap(), plain);
        assert_ne!(plain, expected);
        assert_eq!(found.end_of_text(), [0]);
        for name in names {
            assert_eq!(Tokenizer::open(&dir.path().join(name)).unwrap(), found);
        }
        fs::remove_file(dir.path().join(names[1])).unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(names[1]), "{error}");
    }
}

/// The same metadata but for the whole file of the tokenizer.
fn without_whole_file(metadata: &Metadata) -> Metadata {
    fn copy<T: Kind>(from: &Metadata, to: &mut Metadata, name: &str) {
        let key = format!("tokenizer.ggml.{name}");
        if let Some(value) = from.find::<T>(&key).unwrap() {
            to.set(&key, value);
        }
    }
    let mut lists = Metadata::default();
    for name in ["model", "pre"] {
        copy::<String>(metadata, &mut lists, name);
    }
    for name in ["tokens", "merges"] {
        copy::<Vec<String>>(metadata, &mut lists, name);
    }
    for name in ["bos_token_id", "eos_token_id"] {
        copy::<u32>(metadata, &mut lists, name);
    }
    copy::<Vec<i32>>(metadata, &mut lists, "token_type");
    copy::<bool>(metadata, &mut lists, "add_bos_token");
    lists
}

#[test]
fn lists_of_a_gguf_file_make_the_same_tokenizer() {
    let tokenizer = open("byte-level");
    let lists = tokenizer.gguf(510).unwrap();
    let [model, pre] =
        ["model", "pre"].map(|key| lists.get::<String>(&format!("tokenizer.ggml.{key}")));
    assert_eq!((&*model.unwrap(), &*pre.unwrap()), ("gpt2", "gpt-2"));
    let types = lists.get::<Vec<i32>>("tokenizer.ggml.token_type").unwrap();
    assert_eq!((types[0], types[5], types[500], types[509]), (3, 1, 4, 5));
    let names = lists.get::<Vec<String>>("tokenizer.ggml.tokens").unwrap();
    assert_eq!((names.len(), &*names[509]), (510, "[PAD509]"));
    let end = lists.get::<u32>("tokenizer.ggml.eos_token_id").unwrap();
    assert_eq!(end, 0);
    let whole = Tokenizer::from_gguf(&lists).unwrap().unwrap();
    assert_eq!(whole, tokenizer);
    let mut lists = without_whole_file(&lists);
    let from_lists = Tokenizer::from_gguf(&lists).unwrap().unwrap();
    assert_eq!(from_lists.end_of_text(), tokenizer.end_of_text());
    for case in vectors()[0]["cases"].as_array().unwrap() {
        // Such lists say nothing of composed characters.
        let text = case["text"].as_str().unwrap();
        if !text.contains('\u{301}') {
            assert_eq!(
                from_lists.encode(text.as_bytes()).unwrap(),
                ids(&case["ids"]),
                "{text:?}"
            );
        }
    }
    // Of tokens that were cut, the pairs of the others are left.
    let mut cut = without_whole_file(&lists);
    cut.set("tokenizer.ggml.tokens", names[..300].to_vec());
    cut.set("tokenizer.ggml.token_type", types[..300].to_vec());
    let cut = Tokenizer::from_gguf(&cut).unwrap().unwrap();
    let text = "the cat and the hat";
    let ids = cut.encode(text.as_bytes()).unwrap();
    assert!(ids.len() < text.len() && ids.iter().all(|&id| id < 300));
    assert_eq!(cut.decode(&ids), text.as_bytes());
    lists.set("tokenizer.ggml.pre", "tekken".to_owned());
    let error = Tokenizer::from_gguf(&lists).unwrap_err().to_string();
    assert!(
        error.contains("tekken") && error.contains("tokenizer.json"),
        "{error}"
    );
    lists.set("tokenizer.ggml.pre", 7_u32);
    let error = Tokenizer::from_gguf(&lists).unwrap_err();
    assert!(matches!(error, Error::Metadata(_)), "{error}");
    let mut none = Metadata::default();
    assert_eq!(Tokenizer::from_gguf(&none).unwrap(), None);
    none.set("tokenizer.ggml.model", "none".to_owned());
    assert_eq!(Tokenizer::from_gguf(&none).unwrap(), None);
    assert!(Tokenizer::bytes().gguf(256).is_none() && open("unigram").gguf(999).is_none());
}

#[test]
fn scores_of_a_gguf_file_order_what_becomes_one() {
    let file: Value = serde_json::from_str(&text_of("byte-fallback")).unwrap();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (name, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = name.clone();
    }
    let rank = |name: &String| {
        let merges = file["model"]["merges"].as_array().unwrap();
        let made = |pair: &Value| pair[0].as_str().unwrap().to_owned() + pair[1].as_str().unwrap();
        merges.iter().position(|pair| made(pair) == *name)
    };
    let kind = |name: &String| match name.as_str() {
        "<unk>" => 2,
        "<s>" | "</s>" => 3,
        byte if byte.starts_with("<0x") => 6,
        _ => 1,
    };
    let score = |name: &String| rank(name).map_or(0.0, |rank| -(rank as f32));
    let scores: Vec<f32> = tokens.iter().map(score).collect();
    let types: Vec<i32> = tokens.iter().map(kind).collect();
    let mut lists = Metadata::default();
    lists.set("tokenizer.ggml.model", "llama".to_owned());
    lists.set("tokenizer.ggml.tokens", tokens);
    lists.set("tokenizer.ggml.scores", scores);
    lists.set("tokenizer.ggml.token_type", types);
    for (name, id) in [("bos", 1_u32), ("eos", 2), ("unknown", 0)] {
        lists.set(&format!("tokenizer.ggml.{name}_token_id"), id);
    }
    let tokenizer = Tokenizer::from_gguf(&lists).unwrap().unwrap();
    assert_eq!(
        (tokenizer.begin(), tokenizer.end_of_text()),
        (&[1][..], &[2][..])
    );
    for case in vectors()[1]["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text.as_bytes()).unwrap(),
            ids(&case["ids"]),
            "{text:?}"
        );
    }
}

#[test]
fn what_is_no_tokenizer_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("tokenizer.json");
        fs::write(&path, text).unwrap();
        let error = Tokenizer::open(&path).unwrap_err();
        let told = error.to_string();
        assert!(
            told.lines().count() == 1 && told.contains("tokenizer.json"),
            "{told}"
        );
        error
    };
    let source = |error| match error {
        Error::Tokenizer { source, .. } => source,
        other => panic!("{other}"),
    };
    for text in [
        "",
        "[]",
        "{}",
        "{\"model\": {}}",
        "{\"model\": 3",
        "{\"symbols\": 7}",
    ] {
        assert!(
            matches!(source(file(text)), TokenizerError::Broken(_)),
            "{text}"
        );
    }
    // The crate below panics at these.
    let mut headless: Value = serde_json::from_str(&text_of("byte-fallback")).unwrap();
    headless["post_processor"]["special_tokens"] = serde_json::json!({});
    assert!(matches!(
        source(file(&headless.to_string())),
        TokenizerError::Broken(_)
    ));
    let mut several: Value = serde_json::from_str(&text_of("byte-level")).unwrap();
    several["model"]["merges"][0] = serde_json::json!(["two\nlines", "a"]);
    assert!(matches!(
        source(file(&several.to_string())),
        TokenizerError::Broken(_)
    ));
    let mut huge: Value = serde_json::from_str(&text_of("byte-level")).unwrap();
    huge["model"]["vocab"]["huge"] = 4_000_000_000u32.into();
    assert!(matches!(
        source(file(&huge.to_string())),
        TokenizerError::Broken(_)
    ));
    assert!(matches!(
        Tokenizer::open(&dir.path().join("none.json")),
        Err(Error::File(_))
    ));
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(matches!(
        source(Tokenizer::open(dir.path()).unwrap_err()),
        TokenizerError::Missing
    ));
    assert_eq!(
        Tokenizer::open(Path::new("bytes")).unwrap(),
        Tokenizer::bytes()
    );
}

#[test]
fn texts_and_models_that_do_not_fit_are_refused() {
    let tokenizer = open("byte-level");
    let error = tokenizer.encode(b"abc\xff").unwrap_err();
    assert!(matches!(error, TokenizerError::NotText(3)), "{error}");
    assert_eq!(Tokenizer::bytes().encode(b"a\xff").unwrap(), [97, 255]);
    tokenizer.check_vocabulary(503).unwrap();
    let error = tokenizer.check_vocabulary(502).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("502"), "{error}");
}

/// Where a value lies in a JSON document, and one to put there.
fn other_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(Value::Bool(true)),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["", "a", "▁", "<0x0A>", "Sequence", "ByteLevel", ".*"].prop_map(Value::from),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
    ]
}

/// Every place of a document down to some depth, as pointers; of long lists and tables some only.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(table) => {
            for (key, value) in table.iter().take(12) {
                places(value, &format!("{at}/{}", escaped(key)), found);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().take(4).enumerate() {
                places(value, &format!("{at}/{i}"), found);
            }
        }
        _ => {}
    }
}

/// How many changed files are tried.
fn rounds() -> u32 {
    std::env::var("SERPENS_MUTATIONS").map_or(300, |n| n.parse().expect("a number"))
}

fn try_out(text: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, text).unwrap();
    match Tokenizer::open(&path) {
        Ok(tokenizer) => {
            for text in ["It's a text, <|endoftext|> 日本 é", " ", "\n\na", "<0x0A>"] {
                if let Ok(ids) = tokenizer.encode(text.as_bytes()) {
                    tokenizer.decode(&ids);
                }
            }
            let _ = tokenizer.gguf(0);
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds()) })]

    #[test]
    fn a_changed_file_is_read_or_refused(name in prop::sample::select(ALL.to_vec()), changes in prop::collection::vec((any::<prop::sample::Index>(), other_value()), 1..3)) {
        let mut file: Value = serde_json::from_str(&text_of(name)).unwrap();
        for (place, other) in changes {
            let mut found = Vec::new();
            places(&file, "", &mut found);
            let at = place.index(found.len());
            *file.pointer_mut(&found[at]).unwrap() = other;
        }
        try_out(file.to_string().as_bytes());
    }

    #[test]
    fn changed_bytes_are_read_or_refused(name in prop::sample::select(ALL.to_vec()), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut text = text_of(name).into_bytes();
        for (place, byte) in changes {
            let at = place.index(text.len());
            text[at] = byte;
        }
        if cut.index(4) == 0 {
            text.truncate(cut.index(text.len()));
        }
        try_out(&text);
    }
}
