//! Token files: documents encoded once, and read as windows and in order.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serpens_data::{
    Batch, Content, Corpus, Counts, Error, IGNORE, Result, Source, Split, Tokenizer,
    TokenizerError, tokenize,
};
use tempfile::TempDir;

const START: u32 = 1 << 31;
const SILENT: u32 = 1 << 30;

fn tokenizer(name: &str) -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers");
    Tokenizer::open(&folder.join(format!("{name}.json"))).unwrap()
}

/// A folder with a file of this name and text.
fn text(name: &str, content: impl AsRef<[u8]>) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn encode(path: &str, tokenizer: &Tokenizer) -> Result<(PathBuf, Counts)> {
    let out = PathBuf::from(format!("{path}.tokens"));
    let counts = tokenize(
        &[path.to_owned()],
        &Content::Text,
        tokenizer,
        &out,
        &mut |done, all| {
            assert!(done <= all);
            Ok::<_, Error>(())
        },
    )?;
    Ok((out, counts))
}

fn words(file: &Path) -> Vec<u32> {
    let bytes = fs::read(file).unwrap();
    let width = bytes[48] as usize;
    let flags = 8 * width as u32 - 2;
    let words = bytes[64..].chunks(width).map(|word| {
        let mut long = [0; 4];
        long[..width].copy_from_slice(word);
        let word = u32::from_le_bytes(long);
        word >> flags << 30 | word & ((1 << flags) - 1)
    });
    words.collect()
}

fn open_pattern(pattern: &str, tokenizer: &Tokenizer) -> Result<Corpus> {
    Corpus::open(pattern, &Content::Text, tokenizer, &[], &mut |_, _| Ok(()))
}

fn open(path: &Path, tokenizer: &Tokenizer) -> Result<Corpus> {
    open_pattern(path.to_str().unwrap(), tokenizer)
}

const LINES: &str = r#"{"text": "ab"}

{"prompt": "cd", "completion": "ef", "id": 7}
{"text": ""}
{"prompt": "", "completion": "g"}
"#;

#[test]
fn the_file_is_as_its_description_says() {
    let (_folder, path) = text("data.jsonl", LINES);
    let bytes = Tokenizer::bytes();
    let (file, counts) = encode(&path, &bytes).unwrap();
    assert_eq!(
        counts,
        Counts {
            tokens: 7,
            documents: 4,
            bytes: 7
        }
    );
    let expected = [
        97 | START,
        98,
        99 | START | SILENT,
        100 | SILENT,
        101,
        102,
        103 | START,
    ];
    assert_eq!(words(&file), expected);
    let whole = fs::read(&file).unwrap();
    assert_eq!(&whole[..16], b"serpens tokens 1");
    let numbers = whole[16..64]
        .chunks(8)
        .map(|number| u64::from_le_bytes(number.try_into().unwrap()));
    assert_eq!(
        numbers.collect::<Vec<_>>(),
        [bytes.fingerprint(), 7, 4, 7, 2, 0]
    );

    let llama = tokenizer("byte-fallback");
    let (file, counts) = encode(&path, &llama).unwrap();
    let ids = |text: &str| llama.encode(text.as_bytes()).unwrap();
    let learnt = |text: &str| [&[1 | START][..], &ids(text), &[2]].concat();
    let silent = |text: &str| {
        ids(text)
            .into_iter()
            .map(|id| id | SILENT)
            .collect::<Vec<_>>()
    };
    let expected = [
        learnt("ab"),
        vec![1 | START | SILENT],
        silent("cd"),
        ids("ef"),
        vec![2],
        learnt(""),
        vec![1 | START | SILENT],
        ids("g"),
        vec![2],
    ];
    assert_eq!(words(&file), expected.concat());
    assert_eq!((counts.documents, counts.bytes), (4, 7));
}

/// More text than is read or encoded at a time, of lines that are cut at several places.
fn long_text() -> String {
    let line = |i: usize| match i % 5 {
        0 => format!("line {i} of the licence, which says é and 日本\n"),
        1 => format!("\tan indented one with numbers {}\n\n", i * i),
        2 => "     ".to_owned(),
        3 => "it's the end of a paragraph\n".to_owned(),
        _ => format!("({i}). "),
    };
    (0..230_000).map(line).collect()
}

#[test]
fn a_long_file_has_the_tokens_of_its_text_whatever_the_number_of_threads() {
    let content = long_text();
    assert!(content.len() > 4 << 20);
    let (_folder, path) = text("long.txt", &content);
    for name in ["byte-level", "byte-fallback"] {
        let tokenizer = tokenizer(name);
        let content = &content[..if name == "byte-level" {
            content.len()
        } else {
            300_000
        }];
        fs::write(&path, content).unwrap();
        let (file, counts) = encode(&path, &tokenizer).unwrap();
        let (whole, mut found) = (tokenizer.encode(content.as_bytes()).unwrap(), words(&file));
        found[0] ^= START;
        let expected = [tokenizer.begin(), &whole, &tokenizer.end_of_text()[..1]].concat();
        assert!(found == expected, "{name}");
        assert_eq!((counts.documents, counts.bytes), (1, content.len()));
        let written = fs::read(&file).unwrap();
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        one.install(|| encode(&path, &tokenizer).unwrap());
        assert!(fs::read(&file).unwrap() == written);
    }
}

#[test]
fn lines_are_documents_of_bytes_too() {
    let (_folder, path) = text("data.jsonl", LINES.repeat(2));
    let corpus = open_pattern(&path, &Tokenizer::bytes()).unwrap();
    let corpus = corpus.with_validation_fraction(0.0).unwrap();
    assert_eq!(corpus.tokens(), 14);
    let batch = corpus.windows(1, 13, 0).unwrap().batch(0).unwrap();
    let batch = batch.tokens().unwrap();
    let inputs: Vec<u8> = batch.inputs.iter().map(|&id| id as u8).collect();
    assert_eq!(inputs, b"abcdefgabcdef");
    let learnt: Vec<u32> = b"b..ef..b..ef."
        .iter()
        .map(|&byte| match byte {
            b'.' => IGNORE,
            byte => byte.into(),
        })
        .collect();
    assert_eq!(batch.targets, learnt);
}

#[test]
fn texts_are_read_as_their_token_file_is() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("b.txt", "the second document"),
        ("a.txt", "the first\n"),
        ("c.jsonl", LINES),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let (tokenizer, pattern) = (
        tokenizer("byte-level"),
        folder.path().join("*").display().to_string(),
    );
    let out = folder.path().join("all.tokens");
    tokenize(
        std::slice::from_ref(&pattern),
        &Content::Text,
        &tokenizer,
        &out,
        &mut |_, _| Ok::<_, Error>(()),
    )
    .unwrap();
    let made = open(&out, &tokenizer).unwrap();
    fs::rename(&out, folder.path().join(".hidden")).unwrap();
    let texts = open_pattern(&pattern, &tokenizer).unwrap();
    assert_eq!(
        (texts.files(), made.files(), texts.tokens()),
        (3, 1, made.tokens())
    );
    let sources = [&texts, &made].map(|corpus| corpus.windows(3, 4, 1).unwrap());
    assert_eq!(sources[0].description(), sources[1].description());
    for index in [0, 1, 1000] {
        assert_eq!(
            sources[0].batch(index).unwrap(),
            sources[1].batch(index).unwrap()
        );
    }
    assert_eq!(texts.bytes_per_token(), 36.0 / texts.tokens() as f64);
    assert_eq!(sources[0].bounds().inputs, tokenizer.vocab_size());
}

/// What a batch says of every token that is a target: by the tokens of its document before it.
fn learnt(batch: &Batch, seen: &mut HashMap<u32, Vec<bool>>) {
    let starts = batch.starts.as_ref().unwrap();
    for at in 0..batch.inputs.len() {
        let counted = batch.targets[at] != IGNORE;
        seen.entry(batch.inputs[at]).or_default().push(counted);
        if (at + 1) % batch.length > 0 {
            assert!(!counted || batch.targets[at] == batch.inputs[at + 1]);
            assert!(!(counted && starts[at + 1]));
        }
    }
}

#[test]
fn windows_say_where_documents_start_and_leave_out_what_is_given() {
    // Every token is another, so that it says where it stands.
    let line = |i: u32| {
        let letter = |at: u32| char::from_u32(u32::from('0') + i * 6 + at).unwrap();
        let [a, b, c, d, e, f] = std::array::from_fn(|at| letter(at as u32));
        match i % 2 {
            0 => format!("{{\"text\": \"{a}{b}{c}{d}{e}{f}\"}}\n"),
            _ => format!("{{\"prompt\": \"{a}{b}{c}\", \"completion\": \"{d}{e}{f}\"}}\n"),
        }
    };
    let lines: String = (0..12)
        .filter(|i| ![4, 7, 8].contains(i))
        .map(line)
        .collect();
    let (_folder, path) = text("data.jsonl", lines.replace('\\', "!"));
    let (file, counts) = encode(&path, &Tokenizer::bytes()).unwrap();
    let corpus = open(&file, &Tokenizer::bytes())
        .unwrap()
        .with_validation_fraction(0.0)
        .unwrap();
    let source = corpus.windows(2, 5, 3).unwrap();
    let order = words(&file);
    let mut seen = HashMap::new();
    for index in 0..40 {
        let batch = source.batch(index).unwrap();
        assert_eq!(batch, source.batch(index).unwrap());
        let batch = batch.tokens().unwrap();
        learnt(&batch, &mut seen);
        for (at, id) in batch.inputs.iter().enumerate() {
            let place = order
                .iter()
                .position(|word| word & !(START | SILENT) == *id)
                .unwrap();
            assert_eq!(
                batch.starts.as_ref().unwrap()[at],
                order[place] & START != 0
            );
        }
    }
    assert_eq!(counts.tokens, order.len());
    for pair in order.windows(2) {
        let [here, next] = [pair[0] & !(START | SILENT), pair[1]];
        let expected = next & (START | SILENT) == 0;
        if let Some(counted) = seen.get(&here) {
            assert!(counted.iter().all(|&counted| counted == expected), "{here}");
        }
    }
}

#[test]
fn a_part_is_read_in_order_with_every_learnt_token_once() {
    let (_folder, path) = text("data.jsonl", LINES.repeat(9));
    let bytes = Tokenizer::bytes();
    let (file, counts) = encode(&path, &bytes).unwrap();
    let corpus = open(&file, &bytes)
        .unwrap()
        .with_validation_fraction(1.0)
        .unwrap();
    for (rows, length) in [(1, 5), (2, 3), (5, 4)] {
        let mut slices = corpus.slices(Split::Validation, rows, length).unwrap();
        assert_eq!(slices.tokens(), counts.tokens - 1);
        let (mut targets, mut starts, mut bytes) = (0, 0, 0);
        while let Some(batch) = slices.next() {
            let batch = batch.unwrap();
            targets += batch
                .targets
                .iter()
                .filter(|&&target| target != IGNORE)
                .count();
            starts += batch
                .starts
                .as_ref()
                .unwrap()
                .iter()
                .filter(|&&starts| starts)
                .count();
            bytes += slices.text_bytes(&batch);
            assert_eq!(batch.starts.as_ref().unwrap().len(), batch.inputs.len());
        }
        // Of each four documents b, e and f are learnt; the last token of all is no input.
        assert_eq!(
            (targets, bytes, starts),
            (27, 27, 4 * 9 - 9 - 1),
            "{rows} rows"
        );
    }
}

#[test]
fn a_text_that_is_read_is_not_written_over() {
    let (folder, path) = text("a.txt", "ab");
    let out = folder.path().join("./a.txt");
    for from in [&path[..], folder.path().to_str().unwrap()] {
        let made = tokenize(
            &[from.to_owned()],
            &Content::Text,
            &Tokenizer::bytes(),
            &out,
            &mut |_, _| Ok::<_, Error>(()),
        );
        assert!(matches!(made, Err(Error::OwnText(_))), "{made:?}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
}

#[test]
fn what_cannot_be_encoded_is_refused_and_leaves_no_file() {
    let level = tokenizer("byte-level");
    let refused = |name: &str, content: &[u8]| {
        let (folder, path) = text(name, content);
        let error = encode(&path, &level).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        error
    };
    for line in [
        "{",
        "7",
        "{\"text\": 3}",
        "{\"prompt\": \"a\"}",
        "{\"text\": \"\u{0}\"}",
    ] {
        let content = format!("{{\"text\": \"a\"}}\n\n{line}\n");
        let error = refused("data.jsonl", content.as_bytes());
        assert!(matches!(error, Error::Line { line: 3, .. }), "{error}");
    }
    let mut content = "a line of text\n".repeat(100_000).into_bytes();
    content[1_300_000] = 0xff;
    let error = refused("data.txt", &content);
    let Error::Tokenizer {
        source: TokenizerError::NotText(1_300_000),
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(matches!(refused("blank.jsonl", b"\n\n"), Error::NoText(_)));
    let (folder, path) = text("data.txt", vec![b'a'; 9 << 20]);
    let (out, bytes) = (folder.path().join("out"), Tokenizer::bytes());
    let stopped = tokenize(&[path], &Content::Text, &bytes, &out, &mut |done, _| {
        assert!(done < 9 << 20);
        Err(Error::other("stop"))
    });
    assert!(matches!(stopped, Err(Error::Other(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let pattern = [folder.path().join("data.txt").display().to_string()];
    let folder_of = tokenize(
        &pattern,
        &Content::Text,
        &bytes,
        folder.path(),
        &mut |_, _| Ok::<_, Error>(()),
    );
    assert!(matches!(folder_of, Err(Error::File(_))));
}

#[test]
fn a_file_of_another_tokenizer_or_cut_short_is_refused() {
    let (_folder, path) = text("data.txt", "some text, and more");
    let level = tokenizer("byte-level");
    let (file, _) = encode(&path, &level).unwrap();
    for other in [Tokenizer::bytes(), tokenizer("unigram")] {
        let error = open(&file, &other).unwrap_err();
        assert!(matches!(error, Error::OtherTokenizer(_)), "{error}");
    }
    let whole = fs::read(&file).unwrap();
    for cut in [64, 70, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        assert!(
            matches!(open(&file, &level), Err(Error::Changed(_))),
            "{cut}"
        );
    }
    fs::write(&file, [&whole[..], &[0; 4]].concat()).unwrap();
    assert!(matches!(open(&file, &level), Err(Error::Changed(_))));
    // What is no token file is a text.
    fs::write(&file, &whole[..63]).unwrap();
    assert_eq!(open(&file, &Tokenizer::bytes()).unwrap().tokens(), 63);
}
