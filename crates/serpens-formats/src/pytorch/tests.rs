//! Files that PyTorch wrote (`scripts/make_format_vectors.py`), and pickles by hand.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serpens_core::{Device, Shape};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::values::Value;
use super::*;
use crate::{Encoding, Error};

/// A file that PyTorch wrote.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn fault(path: &Path, prefix: &str) -> Fault {
    match open(path, prefix) {
        Err(Error::File { source, .. }) => source,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is read"),
    }
}

fn values(file: &TensorFile, name: &str) -> Vec<f32> {
    file.tensor(name, Device::Cpu).unwrap().to_vec().unwrap()
}

fn names(file: &TensorFile) -> Vec<&str> {
    file.tensors().map(|(name, _)| name).collect()
}

#[test]
fn files_of_all_protocols_are_read() {
    let w: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let plus = |by: f32| w.iter().map(|x| x + by).collect::<Vec<_>>();
    let turned: Vec<f32> = (0..24).map(|i| w[i % 4 * 6 + i / 4]).collect();
    let axes: Vec<f32> = (0..24).map(|i| w[i % 4 * 6 + i / 4]).collect();
    for protocol in 1..=5 {
        let file = open(&data(&format!("protocol{protocol}.pt")), "").unwrap();
        let expected: [(&str, Shape, Vec<f32>); 16] = [
            ("rows", [4, 6].into(), w.clone()),
            ("tied", [4, 6].into(), w.clone()),
            ("turned", [6, 4].into(), turned.clone()),
            (
                "inner",
                [2, 3].into(),
                vec![8.0, 9.0, 10.0, 14.0, 15.0, 16.0],
            ),
            ("steps", [2, 2].into(), vec![0.0, 3.0, 12.0, 15.0]),
            ("column", [4].into(), vec![4.0, 10.0, 16.0, 22.0]),
            ("axes", [6, 2, 2].into(), axes.clone()),
            (
                "parameter",
                [4, 6].into(),
                w.iter().map(|x| x * 2.0).collect(),
            ),
            ("marked", [4, 6].into(), w.clone()),
            ("scalar", Shape::new(&[]), vec![7.5]),
            ("none", [0, 3].into(), vec![]),
            ("half", [4, 6].into(), w.clone()),
            ("bfloat16", [4, 6].into(), w.clone()),
            ("double", [4, 6].into(), w.clone()),
            ("nested.deep.weight", [4, 6].into(), plus(1.0)),
            ("uint32", [4, 6].into(), vec![]),
        ];
        for (name, shape, expected) in expected {
            let read = file.tensor(name, Device::Cpu).unwrap();
            assert_eq!(read.shape(), shape, "{name}");
            match name {
                "uint32" => {
                    assert_eq!(read.as_slice::<u32>().unwrap(), (0..24).collect::<Vec<_>>())
                }
                _ => assert_eq!(read.as_slice::<f32>().unwrap(), expected, "{name}"),
            }
        }
        for (name, encoding) in [
            ("long", Encoding::Other("I64")),
            ("bool", Encoding::Other("Bool")),
            ("uint16", Encoding::Other("U16")),
        ] {
            assert_eq!(file.encoding(name), Some(encoding));
            assert!(matches!(
                file.tensor(name, Device::Cpu),
                Err(Error::File { source: Fault::Encoding(_, found), .. })
                    if found == encoding
            ));
        }
        assert_eq!(file.tensors().count(), 19);
    }
}

#[test]
fn weights_of_lightning_are_found_under_their_prefix_beside_unknown_objects() {
    let path = data("lightning.ckpt");
    let file = open(&path, "").unwrap();
    assert_eq!(names(&file), ["model.bias", "model.weight"]);
    {
        let file = open(&path, "model.").unwrap();
        assert_eq!(names(&file), ["bias", "weight"]);
        assert_eq!(values(&file, "weight"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&file, "bias"), [-1.0, -1.0]);
    }
    let ordered = open(&data("ordered.pt"), "model.").unwrap();
    assert_eq!(names(&ordered), ["bias", "weight"]);
    for prefix in ["mode.", "weight.", "model.weight.", "model.weight.x."] {
        assert!(matches!(
            fault(&path, prefix),
            Fault::Prefix(named, other) if named == prefix && other.starts_with("model.")
        ));
    }
}

#[test]
fn what_would_run_code_is_refused_by_name() {
    let module = fault(&data("module.pt"), "");
    assert!(
        matches!(&module, Fault::Empty(Some(maker)) if maker == "torch.nn.modules.linear.Linear")
    );
    assert!(module.to_string().contains("state_dict"), "{module}");
    for (file, tensor, made_by) in [
        ("own.pt", "weight", "__builtin__.print"),
        ("sparse.pt", "sparse", "torch._utils._rebuild_sparse_tensor"),
        ("negative.pt", "negative", "torch._utils._rebuild_tensor_v2"),
    ] {
        let found = fault(&data(file), "");
        assert!(
            matches!(&found, Fault::Maker(name, maker) if name == tensor && maker == made_by),
            "{found}"
        );
    }
    assert!(matches!(fault(&data("legacy.pt"), ""), Fault::Legacy));
    let expanded = fault(&data("expanded.pt"), "");
    assert!(matches!(expanded, Fault::View(name) if name == "weight"));
}

/// A file with this pickle and such storages, each of so many bytes that count up.
fn archive(pickle: &[u8], storages: &[(&str, usize)]) -> (tempfile::TempDir, PathBuf) {
    let mut files = vec![("x/data.pkl".to_owned(), pickle.to_vec())];
    for (key, bytes) in storages {
        let bytes = (0..*bytes).map(|i| i as u8).collect();
        files.push((format!("x/data/{key}"), bytes));
    }
    archive_of(&files)
}

fn archive_of(files: &[(String, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    let mut zip = ZipWriter::new(fs::File::create(&path).unwrap());
    for (i, (name, bytes)) in files.iter().enumerate() {
        // As files of more than 4 GiB have it, in turn.
        let options = SimpleFileOptions::default().large_file(i % 2 == 1);
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    (folder, path)
}

/// The pickle of a call that makes a tensor of bytes: its storage has `count` values.
fn tensor(count: i32, offset: i32, dims: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let tuple = |sizes: &[i32]| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|&size| int(size)).collect();
        [b"(", &*sizes, b"t"].concat()
    };
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n",
        &*int(count),
        b"tQ",
        &int(offset),
        &tuple(dims),
        &tuple(strides),
        b"\x89NtR",
    ]
    .concat()
}

/// The pickle of a dictionary with one thing under the key `a`.
fn dictionary(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\0\0\0a", value, b"s."].concat()
}

#[test]
fn pickles_that_want_to_run_code_do_not() {
    let made = tempfile::tempdir().unwrap();
    let command = format!("touch {}", made.path().join("ran").display());
    for (pickle, named) in [
        (format!("cos\nsystem\n(S'{command}'\ntR."), "os.system"),
        (
            format!("c__builtin__\neval\n(S'{command}'\ntR."),
            "__builtin__.eval",
        ),
        (
            format!("\u{5}cbuiltins\neval\n(S'{command}'\ntR.").split_off(1),
            "builtins.eval",
        ),
        (
            format!("S'os'\nS'system'\n@(S'{command}'\ntR."),
            "os.system",
        ),
        (
            format!("S'builtins'\nS'exec'\n@(S'{command}'\nt}}~."),
            "builtins.exec",
        ),
        (format!("cos\nsystem\n)R(S'{command}'\ntR."), "os.system"),
        (
            format!("csubprocess\nPopen\n(S'{command}'\nt!}}b."),
            "subprocess.Popen",
        ),
    ] {
        // What has no letter in text.
        let pickle: Vec<u8> = pickle
            .bytes()
            .map(|byte| match byte {
                b'@' => 0x93,
                b'~' => 0x92,
                b'!' => 0x81,
                byte => byte,
            })
            .collect();
        let (_folder, path) = archive(&pickle, &[]);
        let found = fault(&path, "");
        assert!(
            matches!(&found, Fault::Empty(Some(maker)) if maker == named),
            "{found}"
        );
        let (_folder, path) = archive(&dictionary(&pickle[..pickle.len() - 1]), &[]);
        assert!(matches!(fault(&path, ""), Fault::Empty(Some(maker)) if maker == named));
    }
    assert_eq!(fs::read_dir(made.path()).unwrap().count(), 0, "it ran");
}

#[test]
fn tensors_must_lie_in_their_storages() {
    let read = |count, offset, dims: &[i32], strides: &[i32], bytes| {
        let pickle = dictionary(&tensor(count, offset, dims, strides));
        let (folder, path) = archive(&pickle, &[("0", bytes)]);
        open(&path, "").map(|file| (folder, file))
    };
    for (dims, strides, offset) in [
        (&[2, 3][..], &[3, 1][..], 0),
        (&[3, 2], &[1, 3], 0),
        (&[6], &[1], 0),
        (&[], &[], 5),
        (&[0, 5], &[5, 1], 0),
        (&[1, 2], &[100, 1], 4),
    ] {
        let (_folder, file) = read(6, offset, dims, strides, 24).unwrap();
        assert!(file.tensor("a", Device::Cpu).is_ok(), "{dims:?}");
    }
    const MAX: i32 = i32::MAX;
    for (count, offset, dims, strides, bytes) in [
        (6, 1, &[2, 3][..], &[3, 1][..], 24),
        (6, 6, &[], &[], 24),
        (6, 0, &[7], &[0], 24),
        (6, 0, &[2, 2], &[6, 1], 24),
        (6, 0, &[2], &[-1], 24),
        (6, 0, &[-2], &[1], 24),
        (6, 0, &[2, 3], &[3], 24),
        (6, 0, &[MAX, MAX, MAX, MAX], &[MAX, MAX, MAX, MAX], 24),
        (6, 0, &[MAX, MAX], &[0, 0], 24),
        (7, 0, &[6], &[1], 24),
        (MAX, 0, &[MAX], &[1], 24),
        (6, 7, &[0], &[1], 24),
        (6, MAX, &[0], &[1], 24),
    ] {
        match read(count, offset, dims, strides, bytes) {
            Err(Error::File { source, .. }) => {
                assert!(
                    matches!(&source, Fault::View(name) if name == "a"),
                    "{source}"
                );
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{dims:?} by {strides:?} of {count} are read"),
        }
    }
    for (count, offset) in [(6, -1), (-6, 0)] {
        let below = read(count, offset, &[2], &[1], 24);
        assert!(matches!(below, Err(Error::File { .. })));
    }
    let Err(Error::File { source, .. }) = read(6, 0, &[1; 7], &[1; 7], 24) else {
        panic!("seven axes are read");
    };
    assert!(matches!(source, Fault::View(name) if name == "a"));
}

#[test]
fn archives_that_are_not_pytorchs_say_what_is_wrong() {
    let pickle = dictionary(&tensor(1, 0, &[1], &[1]));
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let storage = file("x/data/0", &[0; 4]);
    let (_folder, path) = archive_of(&[
        file("x/data.pkl", &pickle),
        storage.clone(),
        file("x/byteorder", b"little"),
    ]);
    assert!(open(&path, "").is_ok());
    for (files, expected) in [
        (
            vec![storage.clone()],
            "it has 0 data.pkl where PyTorch's files have one",
        ),
        (
            vec![file("x/data.pkl", &pickle), file("y/data.pkl", &pickle)],
            "it has 2 data.pkl",
        ),
        (vec![file("x/data.pkl", &pickle)], "its x/data/0 is missing"),
        (
            vec![
                file("x/data.pkl", &pickle),
                storage.clone(),
                file("x/byteorder", b"big"),
            ],
            "its numbers are not little-endian",
        ),
    ] {
        let (_folder, path) = archive_of(&files);
        let error = open(&path, "").err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // One file's name becomes that of another.
    let (_folder, path) = archive_of(&[
        file("x/data.pkl", &pickle),
        storage,
        file("x/data/1", &[0; 4]),
    ]);
    let text = fs::read(&path).unwrap();
    let twice: Vec<u8> = text
        .windows(8)
        .map(|at| if at == b"x/data/1" { 1 } else { 0 })
        .collect();
    let mut text = text;
    for (i, _) in twice.iter().enumerate().filter(|(_, hit)| **hit == 1) {
        text[i + 7] = b'0';
    }
    fs::write(&path, text).unwrap();
    assert!(matches!(fault(&path, ""), Fault::Overlap));
    fs::write(&path, b"PK\x03\x04 and no more").unwrap();
    assert!(matches!(fault(&path, ""), Fault::Zip(_)));
    for (bytes, legacy) in [
        (&b""[..], false),
        (b"PK", false),
        (b"{}", false),
        (b"\x80\x02}.", true),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(matches!(fault(&path, ""), Fault::Legacy), legacy);
    }
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    for name in ["ordered.pt", "lightning.ckpt"] {
        let bytes = fs::read(data(name)).unwrap();
        fs::write(&path, &bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..bytes.len() as u64).rev() {
            file.set_len(length).unwrap();
            let error = fault(&path, "").to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn pickles_that_end_anywhere_or_misuse_the_stack_are_refused() {
    let arena = Bump::new();
    let whole = dictionary(&tensor(1, 0, &[1], &[1]));
    for length in 0..whole.len() {
        let (at, ended) = match Machine::run(&arena, &whole[..length]) {
            Err(Fault::Pickle(at)) => (at, true),
            _ => (0, false),
        };
        assert!(ended && at <= length, "{length}");
    }
    assert!(Machine::run(&arena, &whole).is_ok());
    for broken in [
        &b"."[..],
        b"0.",
        b"1.",
        b"2.",
        b"(.",
        b"N(\x85.",
        b"N\x86.",
        b"t.",
        b"NNR.",
        b"N)R.",
        b"S'a'\n)R.",
        b"Nb.",
        b"(b.",
        b"s.",
        b"NNs.",
        b"}(Nu.",
        b"(Nd.",
        b"u.",
        b"a.",
        b"e.",
        b"Nh\x07.",
        b"g1\n.",
        b"gx\n.",
        b"q\0.",
        b"\x94.",
        b"(q\0.",
        b"NN\x93.",
        b"N\x93.",
        b"Q.",
        b"Kx",
        b"\x8b\xff\xff\xff\xff.",
        b"X\xff\xff\xff\x7fab.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
        b"\x8e\0\0\0\0\0\0\0\x10.",
        b"\x95.",
        b"c\xff\na\n.",
    ] {
        assert!(
            matches!(Machine::run(&arena, broken), Err(Fault::Pickle(_))),
            "{broken:?}"
        );
    }
    for unknown in [
        &b"(S'a'\nios\nsystem\n."[..],
        b"(cos\nsystem\no.",
        b"\x80\x06.",
        b"\x82\x01.",
        b"N\x98.",
        b"\xff",
        b"Z",
    ] {
        assert!(Machine::run(&arena, unknown).is_err(), "{unknown:?}");
    }
}

#[test]
fn what_holds_itself_or_multiplies_ends_and_takes_little_memory() {
    let read = |pickle: &[u8]| {
        let (_folder, path) = archive(pickle, &[("0", 4)]);
        fault(&path, "")
    };
    // A dictionary in itself, by memo.
    assert!(matches!(read(b"}q\0X\x01\0\0\0ah\0s."), Fault::Names));
    // Each holds the one before twice: 2^60 tensors' names.
    let mut pickle = dictionary(&tensor(1, 0, &[1], &[1]));
    pickle.truncate(pickle.len() - 1);
    for i in 0..60 {
        pickle.extend([
            b'q', i, b'0', b'}', b'(', b'U', 1, b'a', b'h', i, b'U', 1, b'b', b'h', i, b'u',
        ]);
    }
    pickle.push(b'.');
    assert!(matches!(read(&pickle), Fault::Names));
    // Many times one that has many items without names.
    let mut pickle = b"}q\0(".to_vec();
    pickle.extend(b"K\x01N".repeat(100_000));
    pickle.extend(b"u0}(");
    pickle.extend(b"U\x01ah\0".repeat(100_000));
    pickle.extend(b"u.");
    assert!(matches!(read(&pickle), Fault::Names));
    // The same of tuples, of which none is looked into.
    let mut pickle = b")".to_vec();
    for i in 0..200 {
        pickle.extend([b'q', i, b'h', i, 0x86]);
    }
    pickle.push(b'.');
    let arena = Bump::new();
    assert!(Machine::run(&arena, &pickle).is_ok());
    assert!(arena.allocated_bytes() <= 100 * pickle.len());
    assert!(matches!(read(&pickle), Fault::Empty(None)));
    // Each byte of a pickle may take some fifty, so it has few.
    let text = read(&vec![b'N'; (16 << 20) + 1]).to_string();
    assert!(text.contains("more than 16 MiB"), "{text}");
    // Deep, without a deep stack.
    let mut deep = vec![b'}'; 100_000];
    deep.extend(b"(".repeat(100_000));
    deep.extend(b"t".repeat(100_000));
    deep.push(b'.');
    assert!(matches!(read(&deep), Fault::Empty(None)));
    // Two names for one tensor are two tensors; two tensors for one name are refused.
    let twice = [
        &b"}(U\x01a"[..],
        &tensor(1, 0, &[1], &[1]),
        b"q\x01U\x01ah\x01u.",
    ]
    .concat();
    assert!(matches!(read(&twice), Fault::Twice(name) if name == "a"));
}

#[test]
fn numbers_are_read_as_python_writes_them() {
    let number = |pickle: &[u8]| match Machine::run(&Bump::new(), pickle) {
        Ok(machine) => match machine.top() {
            Some(Value::Int(number)) => Some(number),
            _ => None,
        },
        Err(fault) => panic!("{fault}"),
    };
    for (pickle, expected) in [
        (&b"I17\n."[..], Some(17)),
        (b"I-3\n.", None),
        (b"I01\n.", Some(1)),
        (b"L99L\n.", Some(99)),
        (b"L99999999999999999999L\n.", None),
        (b"K\xff.", Some(255)),
        (b"M\xff\xff.", Some(65535)),
        (b"J\xff\xff\xff\xff.", None),
        (b"J\xff\xff\xff\x7f.", Some(i32::MAX as usize)),
        (b"\x8a\0.", Some(0)),
        (b"\x8a\x01\xff.", None),
        (b"\x8a\x02\xff\0.", Some(255)),
        (b"\x8a\x08\0\0\0\0\0\0\0\x80.", None),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", None),
        (b"\x8b\x05\0\0\0\0\0\0\0\x10.", Some(16 << 32)),
        (b"F1.5\n.", None),
        (b"G\0\0\0\0\0\0\0\0.", None),
    ] {
        assert_eq!(number(pickle), expected, "{pickle:?}");
    }
}

/// A file beside this repository, where it is given: all of it is read.
#[test]
fn a_file_that_is_given_is_read() {
    let Some(path) = std::env::var_os("SERPENS_PYTORCH_FILE") else {
        eprintln!("skipped: SERPENS_PYTORCH_FILE names no file");
        return;
    };
    let file = open(Path::new(&path), "").unwrap();
    for name in names(&file) {
        assert!(values(&file, name).iter().all(|x| x.is_finite()), "{name}");
    }
}
