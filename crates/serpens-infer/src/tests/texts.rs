//! What is shown of a text while it is drawn.

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use serpens_data::Tokenizer;

use crate::{TextStream, encode_prompt};

/// What is shown token by token, and whether a stop string came.
fn shown(text: &[u8], stops: &[&str]) -> (Vec<String>, bool) {
    let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
    let mut stream = TextStream::new(&Tokenizer::bytes(), &stops);
    let mut shown = Vec::new();
    for &byte in text {
        shown.push(stream.push(byte.into()));
        if stream.has_stopped() {
            break;
        }
    }
    shown.push(stream.finish());
    (shown, stream.has_stopped())
}

#[test]
fn characters_appear_when_complete_and_what_may_become_a_stop_string_when_it_did_not() {
    let (texts, stopped) = shown("aé€".as_bytes(), &[]);
    assert_eq!(
        (
            &texts.iter().map(String::as_str).collect::<Vec<_>>()[..],
            stopped
        ),
        (&["a", "", "é", "", "", "€", ""][..], false)
    );
    let (texts, stopped) = shown(b"x\n\ny", &["\n\n\n"]);
    assert_eq!(texts, ["x", "", "", "\n\ny", ""]);
    assert!(!stopped);
    let (texts, stopped) = shown(b"ab END c", &["END", "never"]);
    assert_eq!(texts, ["a", "b", " ", "", "", "", ""]);
    assert!(stopped);
    // What was held back is shown where no more comes, the bytes of half a character too.
    assert_eq!(shown(b"abEN\xe2", &["END"]).0.concat(), "abEN\u{fffd}");
    assert_eq!(shown(b"aab", &["ab"]).0.concat(), "a");
    assert_eq!(shown(b"abc", &[""]).0.concat(), "abc");
}

#[test]
fn characters_of_every_tokenizer_come_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../serpens-data/tests/tokenizers");
    let vectors = std::fs::read_to_string(folder.join("vectors.json")).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(&vectors).unwrap();
    for vector in vectors {
        let name = vector["tokenizer"].as_str().unwrap();
        let tokenizer = Tokenizer::open(&folder.join(format!("{name}.json"))).unwrap();
        for case in vector["cases"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let mut stream = TextStream::new(&tokenizer, &[]);
            let shown: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
            let text = ids.iter().filter(|&&id| !tokenizer.is_special(id));
            let text = text.flat_map(|&id| tokenizer.token_bytes(id));
            let whole = String::from_utf8(text.copied().collect()).unwrap();
            assert_eq!(shown.concat() + &stream.finish(), whole, "{name}");
            assert!(
                shown.iter().all(|text| !text.contains('\u{fffd}')) || whole.contains('\u{fffd}')
            );
        }
    }
    let (texts, _) = shown("aé€\u{fffd}b".as_bytes(), &[]);
    assert_eq!(
        texts,
        ["a", "", "é", "", "", "€", "", "", "\u{fffd}", "b", ""]
    );
    let (texts, _) = shown(b"\xffb\xe2\x82", &[]);
    assert_eq!(texts, ["\u{fffd}", "b", "", "", "\u{fffd}"]);
    assert_eq!(TextStream::new(&Tokenizer::bytes(), &[]).push(50_000), "");
}

#[test]
fn a_prompt_begins_as_the_tokenizer_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("symbols.json");
    let table = r#"{"symbols": ["<s>", "a", "b"], "special": ["<s>"], "begin": "<s>"}"#;
    std::fs::write(&path, table).unwrap();
    let tokenizer = Tokenizer::open(&path).unwrap();
    assert_eq!(encode_prompt(&tokenizer, b"ab", false).unwrap(), [0, 1, 2]);
    assert_eq!(encode_prompt(&tokenizer, b"", false).unwrap(), [0]);
    assert_eq!(encode_prompt(&tokenizer, b"ab", true).unwrap(), [1, 2]);
    assert!(
        encode_prompt(&Tokenizer::bytes(), b"", false)
            .unwrap()
            .is_empty()
    );
}

proptest! {
    #[test]
    fn the_text_up_to_the_first_stop_string_is_shown_and_nothing_of_that(
        text in "[abé]{0,30}", stops in prop::collection::vec("[abé]{1,4}", 0..3)
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let end = stops.iter().filter_map(|stop| text.find(stop)).min();
        let (texts, stopped) = shown(text.as_bytes(), &stops);
        // Where two stop strings overlap, the one that ends first is seen first.
        let first_whole = (0..=text.len()).filter(|end| text.is_char_boundary(*end)).find_map(|end| {
            let ends = stops.iter().filter(|stop| text[..end].ends_with(**stop));
            ends.map(|stop| end - stop.len()).min()
        });
        prop_assert_eq!(stopped, end.is_some());
        prop_assert_eq!(texts.concat(), &text[..first_whole.unwrap_or(text.len())]);
    }
}
