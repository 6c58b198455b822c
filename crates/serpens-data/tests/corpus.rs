//! Byte corpora: files are found and joined in order, training visits every window once per epoch, and reading in
//! order covers every byte once.

use std::collections::HashSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;
use serpens_data::{Batch, Content, Corpus, CorpusSource, Error, IGNORE, Source, Split, Tokenizer};
use tempfile::TempDir;

/// Files with the given names and contents.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    folder
}

fn open(path: &Path) -> Corpus {
    let (path, bytes) = (path.to_str().expect("a plain path"), Tokenizer::bytes());
    let go_on = &mut |_, _| Ok::<_, Error>(());
    Corpus::open(path, &Content::Text, &bytes, &[], go_on).expect("it is there")
}

/// A corpus of `bytes` bytes in which any four in a row are found at one place only: big-endian counters.
fn counters(bytes: usize) -> (TempDir, Corpus) {
    let text: Vec<u8> = (0..bytes as u32 / 3 + 1)
        .flat_map(|i| [(i >> 8) as u8, i as u8, 255])
        .take(bytes)
        .collect();
    let folder = folder(&[("counters", &text)]);
    let corpus = open(folder.path());
    (folder, corpus)
}

/// The whole corpus, read in order.
fn content(corpus: &Corpus) -> Vec<u8> {
    let whole = corpus
        .clone()
        .with_validation_fraction(0.0)
        .expect("a share");
    let mut bytes = Vec::new();
    for batch in whole
        .slices(Split::Train, 1, 7)
        .expect("more than one byte")
    {
        let batch = batch.expect("readable");
        if bytes.is_empty() {
            bytes.push(batch.inputs[0] as u8);
        }
        bytes.extend(batch.targets.iter().map(|&token| token as u8));
    }
    bytes
}

#[test]
fn folders_are_read_to_every_depth_in_the_order_of_paths() {
    let folder = folder(&[
        ("b.txt", b"second "),
        ("a/z.txt", b"first "),
        ("c/d/e.md", b"third"),
        ("c/empty", b""),
        (".hidden", b"no"),
        (".git/config", b"no"),
    ]);
    let corpus = open(folder.path());
    assert_eq!(content(&corpus), b"first second third");
    assert_eq!(corpus.tokens(), 18);
}

#[test]
fn globs_choose_files() {
    let folder = folder(&[
        ("b.txt", b"B"),
        ("a.txt", b"A"),
        ("c.md", b"C"),
        ("d/e.txt", b"E"),
        (".hidden.txt", b"no"),
    ]);
    assert_eq!(content(&open(&folder.path().join("*.txt"))), b"AB");
    assert_eq!(content(&open(&folder.path().join("**/*.txt"))), b"ABE");
    assert_eq!(content(&open(&folder.path().join("[bc].*"))), b"BC");
    assert_eq!(content(&open(&folder.path().join("**"))), b"ABCE");
}

#[test]
fn globs_go_through_folders_and_name_hidden_ones_only_where_they_say_so() {
    let folder = folder(&[
        ("a/x/1.txt", b"1,"),
        ("a/y/2.txt", b"2,"),
        ("b/x/3.txt", b"3,"),
        ("b/file", b"no"),
        ("a/.hidden/4.txt", b"4,"),
        (".h/5.txt", b"5,"),
    ]);
    let read = |pattern: &str| content(&open(&folder.path().join(pattern)));
    assert_eq!(read("*/x/*.txt"), b"1,3,");
    assert_eq!(read("*/*/?.txt"), b"1,2,3,");
    assert_eq!(read("**/x/**/*.txt"), b"1,3,");
    assert_eq!(read("**/[2-3].txt"), b"2,3,");
    assert_eq!(read("*/.hidden/*"), b"4,");
    assert_eq!(read(".h*/*"), b"5,");
    assert_eq!(read("a/../b/x/*"), b"3,");
    let many = "**/".repeat(40);
    assert_eq!(read(&format!("{many}1.*")), b"1,", "each file once");
}

#[cfg(unix)]
#[test]
fn folders_that_a_glob_does_not_name_are_not_entered() {
    let folder = folder(&[("a1/0/0/0/0/0/0/0/0/0/t", b"text"), ("b/t", b"no")]);
    // Whoever enters it finds more folders than can be counted.
    for link in 0..10 {
        let link = folder.path().join(format!("b/{link}"));
        std::os::unix::fs::symlink(".", link).expect("a link");
    }
    for pattern in ["a*/?/?/?/?/?/?/?/?/?/t", "a*/0/0/0/**/t"] {
        assert_eq!(content(&open(&folder.path().join(pattern))), b"text");
    }
    let inner = "[0-1]/".repeat(9);
    assert_eq!(
        content(&open(&folder.path().join(format!("?1/{inner}*")))),
        b"text"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8_are_matched_and_read() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder(&[("b.txt", b"B")]);
    let name = std::ffi::OsStr::from_bytes(b"a\xff.txt");
    fs::write(folder.path().join(name), "A").expect("a file");
    for pattern in ["*.txt", "?*.txt", "**/*"] {
        assert_eq!(content(&open(&folder.path().join(pattern))), b"AB");
    }
    assert_eq!(content(&open(folder.path())), b"AB");
}

/// More than is held in memory, most of it a hole that takes no place on disk.
const LARGE: u64 = (256 << 20) + 1000;

#[test]
fn what_is_not_held_in_memory_is_read_from_its_files_without_a_seam() {
    let folder = folder(&[("1", b"one"), ("2", b""), ("3", b"three"), ("4", b"four")]);
    let path = folder.path().join("2");
    let large = fs::OpenOptions::new().write(true).open(&path);
    let mut large = large.expect("a file");
    large.set_len(LARGE - 3).expect("grown");
    large.seek(SeekFrom::End(0)).expect("there");
    large.write_all(b"two").expect("written");
    let corpus = open(folder.path());
    assert_eq!(corpus.tokens() as u64, 3 + LARGE + 9);
    let last = |count: usize| -> Vec<u8> {
        let fraction = (count as f64 + 0.5) / corpus.tokens() as f64;
        let corpus = corpus.clone().with_validation_fraction(fraction);
        let slices = corpus.expect("a share").slices(Split::Validation, 1, 5);
        let slices = slices.expect("long enough").map(|s| s.expect("readable"));
        slices.flat_map(|s| s.targets).map(|id| id as u8).collect()
    };
    assert_eq!(last(13), b"\0twothreefour");
    assert_eq!(last(4), b"four");
    let first = corpus
        .slices(Split::Train, 1, 5)
        .expect("long enough")
        .next();
    assert_eq!(first.unwrap().unwrap().inputs, b"one\0\0".map(u32::from));
}

#[test]
fn a_file_that_is_cut_short_or_replaced_is_named_and_one_that_grows_is_read_on() {
    let folder = folder(&[("log", b"")]);
    let path = folder.path().join("log");
    let file = fs::OpenOptions::new().write(true).open(&path);
    let file = file.expect("a file");
    file.set_len(LARGE).expect("grown");
    let corpus = open(&path);
    let read = |index| {
        let mut slices = corpus.slices(Split::Train, 1, 1000).expect("long enough");
        slices.nth(index).expect("there are more").map(drop)
    };
    file.set_len(LARGE + 1).expect("grown");
    read(8).expect("what was there is there");
    file.set_len(LARGE - 1).expect("cut");
    let error = read(0).expect_err("it is shorter");
    assert!(matches!(&error, Error::Changed(named) if *named == path));
    assert!(error.to_string().contains("cut short or replaced"));
    let other = fs::File::create(folder.path().join("other")).expect("a file");
    other.set_len(LARGE).expect("grown");
    fs::rename(folder.path().join("other"), &path).expect("replaced");
    // Where the system does not know when a file was made, another one cannot be told from it.
    let told = fs::metadata(&path).is_ok_and(|metadata| metadata.created().is_ok());
    assert_eq!(matches!(read(0), Err(Error::Changed { .. })), told);
    fs::remove_file(&path).expect("removed");
    assert!(matches!(read(0), Err(Error::File(_))));
}

#[test]
fn texts_that_are_held_in_memory_may_change_on_disk() {
    let folder = folder(&[("text", b"as it was")]);
    let corpus = open(folder.path());
    fs::remove_file(folder.path().join("text")).expect("removed");
    assert_eq!(content(&corpus), b"as it was");
}

#[test]
fn a_file_whose_name_looks_like_a_glob_is_taken_as_it_is() {
    let folder = folder(&[("a[1].txt", b"brackets"), ("a1.txt", b"none")]);
    assert_eq!(content(&open(&folder.path().join("a[1].txt"))), b"brackets");
}

#[test]
fn large_and_small_files_are_joined_without_a_seam() {
    let large: Vec<u8> = (0..200_000u32).map(|i| (i % 241) as u8).collect();
    let files: [(&str, &[u8]); 6] = [
        ("1", b"one"),
        ("2", b"two"),
        ("3", &large),
        ("4", &large[..70_000]),
        ("5", b"five"),
        ("6", b"six"),
    ];
    let folder = folder(&files);
    let expected: Vec<u8> = files
        .iter()
        .flat_map(|(_, content)| content.iter().copied())
        .collect();
    assert!(content(&open(folder.path())) == expected);
}

/// As many windows of a length as an epoch lays over this much text, by the definition.
fn windows_per_epoch(text: usize, length: usize) -> usize {
    (text / length - 1).max(1)
}

/// Window starts of these batches, found by searching the text.
fn starts(source: &CorpusSource, text: &[u8], batches: Range<usize>) -> Vec<usize> {
    let mut found = Vec::new();
    for index in batches {
        let batch = source
            .batch(index as u64)
            .expect("endless")
            .tokens()
            .expect("ids");
        for (inputs, targets) in batch
            .inputs
            .chunks(batch.length)
            .zip(batch.targets.chunks(batch.length))
        {
            let window: Vec<u8> = inputs.iter().map(|&token| token as u8).collect();
            let start = text
                .windows(batch.length)
                .position(|at| at == window)
                .expect("it is in the text");
            let next: Vec<u32> = text[start + 1..=start + batch.length]
                .iter()
                .map(|&b| b.into())
                .collect();
            assert_eq!(targets, next, "targets are the inputs one byte later");
            found.push(start);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_epoch_visits_every_window_once(
        bytes in 40usize..700, length in 5usize..30, batch in 1usize..9, seed in any::<u64>(),
    ) {
        let (_folder, corpus) = counters(bytes);
        let text = content(&corpus);
        let train = corpus.split_tokens(Split::Train);
        let source = corpus.windows(batch, length, seed).expect("long enough");
        let windows = windows_per_epoch(train, length);
        let epochs = 3;
        let mut starts = starts(&source, &text, 0..(epochs * windows).div_ceil(batch));
        starts.truncate(epochs * windows);
        for epoch in starts.chunks_mut(windows) {
            epoch.sort_unstable();
            prop_assert!(epoch.windows(2).all(|pair| pair[1] - pair[0] == length), "end to end: {epoch:?}");
            prop_assert!(epoch[0] < length, "the offset is below the length");
            let end = epoch[windows - 1] + length + 1;
            prop_assert!(end <= train, "validation bytes are never targets of training");
            prop_assert!(epoch[0] + train - end < 2 * length, "hardly anything is left out");
        }
    }

    #[test]
    fn slices_predict_every_byte_once(
        bytes in 2usize..300, batch in 1usize..7, length in 1usize..40, fraction in 0.0f64..=1.0,
    ) {
        let (_folder, corpus) = counters(bytes);
        let text = content(&corpus);
        let corpus = corpus.with_validation_fraction(fraction).expect("a share");
        let train = corpus.split_tokens(Split::Train);
        for (split, range) in [(Split::Train, 1..train.max(1)), (Split::Validation, train.max(1)..bytes)] {
            let Ok(slices) = corpus.slices(split, batch, length) else {
                prop_assert!(range.is_empty());
                continue;
            };
            let mut rows = vec![Vec::new(); batch];
            let batches: Result<Vec<Batch>, _> = slices.collect();
            let batches = batches.expect("readable");
            for slice in &batches {
                prop_assert_eq!(slice.inputs.len(), batch * slice.length);
                prop_assert!(slice.length >= 1 && slice.length <= length);
                for (row, inputs) in slice.inputs.chunks(slice.length).enumerate() {
                    let targets = &slice.targets[row * slice.length..][..slice.length];
                    rows[row].extend(inputs.iter().copied().zip(targets.iter().copied()));
                }
            }
            let pairs: Vec<(u32, u32)> = rows.concat().into_iter().filter(|pair| pair.1 != IGNORE).collect();
            let expected: Vec<(u32, u32)> = range.map(|t| (text[t - 1].into(), text[t].into())).collect();
            prop_assert_eq!(pairs, expected, "row by row, the rows are the part");
        }
    }
}

#[test]
fn a_sample_of_a_part_is_the_beginning_of_each_of_its_rows() {
    let (_folder, corpus) = counters(1003);
    let whole = corpus.slices(Split::Validation, 8, 5).expect("long enough");
    assert_eq!(whole.tokens(), 100);
    let text = content(&corpus);
    for (most, each) in [(64, 8), (71, 8), (72, 9), (8, 1), (0, 1)] {
        let sample = whole.clone().at_most(most);
        assert_eq!(sample.tokens(), 8 * each);
        let batches: Vec<Batch> = sample.map(Result::unwrap).collect();
        for row in 0..8 {
            let targets = batches
                .iter()
                .flat_map(|b| &b.targets[row * b.length..][..b.length]);
            let targets: Vec<u8> = targets.map(|&token| token as u8).collect();
            // 100 bytes are 13 for each of seven rows, and 9 for the last.
            assert_eq!(targets, text[903 + 13 * row..][..each]);
        }
    }
    assert_eq!(whole.clone().at_most(1000).tokens(), 100);
}

#[test]
fn validation_windows_cover_the_last_tenth() {
    let (_folder, corpus) = counters(1003);
    assert_eq!(
        (
            corpus.split_tokens(Split::Train),
            corpus.split_tokens(Split::Validation)
        ),
        (903, 100)
    );
    let windows: Vec<Batch> = corpus
        .slices(Split::Validation, 1, 32)
        .expect("long enough")
        .map(|window| window.expect("readable"))
        .collect();
    let lengths: Vec<usize> = windows.iter().map(|window| window.length).collect();
    assert_eq!(lengths, [32, 32, 32, 4]);
    assert!(windows.iter().all(|window| window.batch == 1));
    let targets: Vec<u8> = windows
        .iter()
        .flat_map(|w| w.targets.iter().map(|&token| token as u8))
        .collect();
    assert_eq!(targets, content(&corpus)[903..]);
}

#[test]
fn order_and_offset_change_from_epoch_to_epoch() {
    let (_folder, corpus) = counters(4000);
    let text = content(&corpus);
    let source = corpus.windows(1, 40, 9).expect("long enough");
    let windows = windows_per_epoch(corpus.split_tokens(Split::Train), 40);
    let epochs: Vec<Vec<usize>> = (0..12)
        .map(|epoch| starts(&source, &text, epoch * windows..(epoch + 1) * windows))
        .collect();
    let offsets: HashSet<usize> = epochs.iter().map(|epoch| epoch[0] % 40).collect();
    assert!(
        offsets.len() >= 6,
        "12 draws of 40 give about 10 different offsets: {offsets:?}"
    );
    let orders: HashSet<Vec<usize>> = epochs
        .iter()
        .map(|epoch| epoch.iter().map(|start| start / 40).collect())
        .collect();
    assert_eq!(orders.len(), 12, "no order comes twice");
}

#[test]
fn the_shortest_text_is_one_window() {
    let (_folder, corpus) = counters(11);
    let corpus = corpus.with_validation_fraction(0.0).expect("a share");
    let source = corpus.windows(3, 10, 0).expect("just long enough");
    let text = content(&corpus);
    assert_eq!(starts(&source, &text, 0..1), [0, 0, 0]);
}

#[test]
fn another_text_of_the_same_size_is_another_stream() {
    let mut text = vec![b'a'; 60_000];
    let one = folder(&[("text", &text)]);
    text[100] = b'b';
    let other = folder(&[("text", &text)]);
    let described = |folder: &TempDir| {
        let source = open(folder.path()).windows(2, 8, 0);
        source.expect("long enough").description()
    };
    assert_eq!(described(&one), described(&one));
    assert_ne!(described(&one), described(&other));
}
