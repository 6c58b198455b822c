//! Compressed files are read as what they hold, and what is encoded may be larger than the memory's share.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serpens_data::{
    Batch, Content, Corpus, DnaConfig, Error, Result, Source, Split, Tokenizer, tokenize,
};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A gzip member for each so many bytes and an empty one behind them, as bgzip writes.
fn members(content: &[u8]) -> Vec<u8> {
    let members = content.chunks(1000).chain([&[][..]]).map(gzip);
    members.collect::<Vec<_>>().concat()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

/// A frame to be passed over before and between frames.
fn frames(content: &[u8]) -> Vec<u8> {
    let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frames = content
        .chunks(1000)
        .map(|chunk| [skipped.clone(), zstd(chunk)].concat());
    frames.collect::<Vec<_>>().concat()
}

fn open(path: &Path, content: &Content, tokenizer: &Tokenizer) -> Result<Corpus> {
    Corpus::open(
        path.to_str().unwrap(),
        content,
        tokenizer,
        &[],
        &mut |_, _| Ok(()),
    )
}

/// A batch with all tokens of the corpus.
fn all(corpus: &Corpus) -> Batch {
    let corpus = corpus.clone().with_validation_fraction(0.0).unwrap();
    let mut slices = corpus.slices(Split::Train, 1, corpus.tokens()).unwrap();
    slices.next().unwrap().unwrap()
}

#[test]
fn compressed_files_have_the_tokens_of_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: u32| {
        format!(
            "{{\"text\": \"line {}\"}}\n{{\"prompt\": \"{i}\", \"completion\": \"é\"}}\n",
            i * i
        )
    };
    let lines: String = (0..300).map(line).collect();
    let fasta: String = (0..300)
        .map(|i| format!(">{i}\n{}\n", "ACGTTGCAAN".repeat(i % 7)))
        .collect();
    let bytes = Tokenizer::bytes();
    let dna = DnaConfig::default();
    let cases = [
        ("a.jsonl", &lines, Content::Text, bytes.clone()),
        ("a.txt", &lines, Content::Text, bytes),
        (
            "a.fa",
            &fasta,
            Content::Dna(dna.clone()),
            Tokenizer::dna(&dna).unwrap(),
        ),
    ];
    for (name, text, content, tokenizer) in cases {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let plain = all(&open(&path, &content, &tokenizer).unwrap());
        let packed = [
            ("gz", gzip as fn(&[u8]) -> Vec<u8>),
            ("gz", members),
            ("zst", zstd),
            ("zst", frames),
        ];
        for (end, pack) in packed {
            let path = folder.path().join(format!("{name}.{end}"));
            fs::write(&path, pack(text.as_bytes())).unwrap();
            let packed = all(&open(&path, &content, &tokenizer).unwrap());
            assert_eq!(
                (&packed.inputs, &packed.targets),
                (&plain.inputs, &plain.targets)
            );
            assert_eq!(
                packed.starts.is_some(),
                name != "a.txt" || plain.starts.is_none()
            );
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_compressed_file_that_is_cut_short_or_damaged_is_named_and_none_panics() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = (folder.path().join("a.txt.gz"), Tokenizer::bytes());
    let text: Vec<u8> = (0..30_000u32)
        .map(|i| (i * i / 7 % 61) as u8 + b'0')
        .collect();
    let read = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        open(&path, &Content::Text, &bytes)
    };
    for whole in [gzip(&text), members(&text), zstd(&text), frames(&text)] {
        assert_eq!(read(&whole).unwrap().tokens(), text.len());
        for cut in [whole.len() - 1, whole.len() / 2 + 5, 13] {
            let error = read(&whole[..cut]).map(drop).unwrap_err();
            assert!(matches!(error, Error::Content { .. }), "{error}");
            let error = error.to_string();
            assert!(
                error.contains("a.txt.gz`: it is cut short or damaged"),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1);
        }
        for at in 0..300 {
            let mut other = whole.clone();
            other[at * whole.len() / 300] ^= 1 << (at % 8);
            if let Ok(corpus) = read(&other) {
                assert!(corpus.tokens() <= 2 * text.len());
            }
        }
    }
    // As many frames as would not fit on a stack, and nothing in them.
    let nothing = [0x5a, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(300_000);
    for empty in [gzip(b""), gzip(b"").repeat(30_000), nothing] {
        assert!(matches!(read(&empty), Err(Error::NoText(_))));
    }
}

#[test]
fn words_of_any_width_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let lines = r#"{"prompt": "abc", "completion": "cab"}
{"text": "bacb"}
"#;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, lines.repeat(9)).unwrap();
    let mut batches = Vec::new();
    for (symbols, width) in [(3, 1), (64, 1), (65, 2), (16_384, 2), (16_385, 4)] {
        let others = (3..symbols).map(|i| format!("<{i}>"));
        let symbols: Vec<String> = ["a", "b", "c"]
            .map(String::from)
            .into_iter()
            .chain(others)
            .collect();
        let table = folder.path().join("symbols.json");
        fs::write(
            &table,
            serde_json::json!({ "symbols": symbols }).to_string(),
        )
        .unwrap();
        let tokenizer = Tokenizer::open(&table).unwrap();
        let (text, file) = (
            path.to_str().unwrap().to_owned(),
            folder.path().join("tokens"),
        );
        let go_on = &mut |_, _| Ok::<_, Error>(());
        let counts = tokenize(&[text], &Content::Text, &tokenizer, &file, go_on).unwrap();
        let mut written = fs::read(&file).unwrap();
        assert_eq!(written.len(), 64 + counts.tokens * width);
        for from in [&file, &path] {
            let corpus = open(from, &Content::Text, &tokenizer).unwrap();
            assert_eq!(corpus.documents(), 18);
            batches.push(corpus.windows(2, 11, 3).unwrap().batch(2).unwrap());
        }
        if width == 4 {
            // As files were written before words had other widths.
            written[48] = 0;
            fs::write(&file, &written).unwrap();
            let corpus = open(&file, &Content::Text, &tokenizer).unwrap();
            batches.push(corpus.windows(2, 11, 3).unwrap().batch(2).unwrap());
        }
        for other in [3, 8, 255] {
            written[48] = other;
            fs::write(&file, &written).unwrap();
            let refused = open(&file, &Content::Text, &tokenizer);
            assert!(matches!(refused, Err(Error::Changed(_))));
        }
    }
    assert!(batches.iter().all(|batch| *batch == batches[0]));
}

#[test]
fn what_is_encoded_beyond_the_memory_is_read_back_and_may_be_stopped() {
    const HELD: usize = (256 << 20) - 64; // the header is held too
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fa.gz");
    let letter = |i: usize| b"ACGT"[i % 1013 * (i % 1013) / 3 % 4];
    let line: Vec<u8> = (0..1013).map(letter).chain([b'\n']).collect();
    let mut file = GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast());
    file.write_all(b">a\n").unwrap();
    let lines = 270_000;
    for some in std::iter::repeat_n(line.repeat(1000), lines / 1000) {
        file.write_all(&some).unwrap();
    }
    file.finish().unwrap();
    let config = DnaConfig::default();
    let (tokenizer, content) = (Tokenizer::dna(&config).unwrap(), Content::Dna(config));
    let corpus = open(&path, &content, &tokenizer).unwrap();
    assert_eq!(corpus.tokens(), lines * 1013);
    let last = corpus.tokens();
    for start in [0, HELD - 7, HELD - 1, HELD, HELD + 5, last - 30] {
        let share = ((last - start) as f64 - 0.5) / last as f64;
        let corpus = corpus.clone().with_validation_fraction(share).unwrap();
        let mut slices = corpus.slices(Split::Validation, 1, 20).unwrap();
        let batch = slices.next().unwrap().unwrap();
        let text = corpus.tokenizer().decode(&batch.inputs);
        let first = (start..start + 2)
            .find(|&first| text == Vec::from_iter((first..first + 20).map(letter)));
        assert!(first.is_some(), "at {start}");
    }
    let mut heard = 0;
    let stopped = Corpus::open(
        path.to_str().unwrap(),
        &content,
        &tokenizer,
        &[],
        &mut |done, all| {
            assert!(done <= all && all as u64 == fs::metadata(&path).unwrap().len());
            heard += 1;
            if heard == 3 {
                Err(Error::other("stop"))
            } else {
                Ok(())
            }
        },
    );
    assert!(matches!(stopped, Err(Error::Other(_))) && heard == 3);
}
