//! Files that the `gguf` Python package wrote (`scripts/make_format_vectors.py`), our own, and those that are refused.

use std::fs;
use std::path::{Path, PathBuf};

use serpens_core::{Device, Shape, Tensor};
use serpens_ops::quantized_linear::Blocks;

use super::*;
use crate::{Encoding, Error, Fault, Planned, Result, TensorFile};

const FILES: [(&str, &[u8]); 2] = [
    ("v2", include_bytes!("../../tests/data/v2.gguf")),
    ("v3", include_bytes!("../../tests/data/v3.gguf")),
];

fn open_bytes(bytes: &[u8]) -> Result<(Metadata, TensorFile)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    open(&path)
}

fn fault(bytes: &[u8]) -> Fault {
    match open_bytes(bytes) {
        Err(Error::File { source, .. }) => source,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is read"),
    }
}

/// Faults hold other libraries' errors, which cannot be compared.
#[track_caller]
fn assert_same(found: Fault, expected: Fault) {
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

#[track_caller]
fn assert_truncated(found: Fault) {
    let Fault::Header(error) = found else {
        panic!("{found}");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_the_package_writes_is_read() {
    for (_, bytes) in FILES {
        let (metadata, file) = open_bytes(bytes).unwrap();
        assert_eq!(
            metadata.get::<String>("general.architecture").unwrap(),
            "test"
        );
        macro_rules! expect {
            ($($key:literal: $type:ty = $value:expr;)+) => {$(
                let (one, many) = (concat!("one.", $key), concat!("many.", $key));
                assert_eq!(metadata.get::<$type>(one).unwrap(), $value);
                assert_eq!(metadata.get::<Vec<$type>>(many).unwrap(), [$value, $value]);
            )+};
        }
        expect! {
            "uint8": u8 = 200;
            "int8": i8 = -100;
            "uint16": u16 = 60_000;
            "int16": i16 = -30_000;
            "uint32": u32 = 4_000_000_000;
            "int32": i32 = -2_000_000_000;
            "float32": f32 = 0.1;
            "bool": bool = true;
            "string": String = "Δ \n";
            "uint64": u64 = 1 << 63;
            "int64": i64 = -(1 << 62);
            "float64": f64 = 0.1;
        }
        assert_eq!(
            metadata.get::<Vec<String>>("tokens").unwrap(),
            ["a", "", "Ġb"]
        );
        let shapes = file
            .tensors()
            .map(|(name, shape)| format!("{name} {shape}"));
        assert_eq!(
            shapes.collect::<Vec<_>>(),
            [
                "BF16 (2, 3, 32)",
                "F16 (2, 3, 32)",
                "F32 (2, 3, 32)",
                "F64 (2, 3, 32)",
                "Q4_0 (2, 3, 32)",
                "Q4_K (2, 256)",
                "Q5_0 (2, 3, 32)",
                "Q6_K (2, 256)",
                "Q8_0 (2, 3, 32)",
                "ids (3)",
                "one (1)",
            ]
        );
        let exact = file.tensor("F64", Device::Cpu).unwrap();
        let exact = exact.as_slice::<f32>().unwrap();
        assert_eq!((exact[0], exact[191]), (-1.0, 1.0));
        for (encoding, error) in [
            ("F32", 0.0),
            ("F16", 3e-4),
            ("BF16", 3e-3),
            ("Q8_0", 4e-3),
            ("Q4_0", 0.13),
        ] {
            assert_eq!(file.encoding(encoding).unwrap().to_string(), encoding);
            let read = file.tensor(encoding, Device::Cpu).unwrap();
            let pairs = read.as_slice::<f32>().unwrap().iter().zip(exact);
            let worst = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= error, "{encoding}: {worst}");
        }
        assert!(
            file.tensor("Q4_K", Device::Cpu).is_ok() && file.tensor("Q6_K", Device::Cpu).is_ok()
        );
        for (name, expected) in [
            ("ids", Encoding::Other("I32")),
            ("Q5_0", Encoding::Other("Q5_0")),
        ] {
            let Err(Error::File { source, .. }) = file.tensor(name, Device::Cpu) else {
                panic!("{name} is read");
            };
            assert_same(source, Fault::Encoding(name.into(), expected));
        }
    }
}

#[test]
fn metadata_of_another_type_or_that_are_missing_name_key_and_types() {
    let (metadata, file) = open_bytes(FILES[1].1).unwrap();
    let error = metadata.get::<u32>("one.int32").unwrap_err();
    let Error::File { path, source } = error else {
        panic!("{error}");
    };
    assert_eq!(path, file.path());
    let types = ["i32", "u32"].map(str::to_owned);
    let [found, wanted] = types;
    assert_same(source, Fault::OtherType("one.int32".into(), found, wanted));
    let error = metadata.get::<Vec<String>>("none").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("its metadata none (array of String) is missing"),
        "{error}"
    );
    assert!(metadata.find::<u32>("none").unwrap().is_none());
    assert!(metadata.find::<u32>("one.string").is_err());
}

/// Tensors for a file of our own, with values that say where they belong.
fn planned() -> Vec<Planned> {
    let tensors = [
        ("b", Shape::from([2, 64]), Encoding::Blocks(Blocks::Q8_0)),
        ("a", Shape::from([3]), Encoding::F32),
        ("c", Shape::from([2, 1, 32]), Encoding::Blocks(Blocks::Q4_0)),
        ("d", Shape::from([5, 2]), Encoding::BF16),
        ("e", Shape::from([0, 32]), Encoding::F16),
        ("f", Shape::new(&[]), Encoding::F16),
    ];
    let planned = tensors.map(|(name, shape, encoding)| Planned {
        name: name.into(),
        shape,
        encoding,
    });
    planned.into()
}

fn value(planned: &Planned) -> Result<Tensor> {
    let values: Vec<f32> = (0..planned.shape.count())
        .map(|i| i as f32 / 127.0)
        .collect();
    Ok(Tensor::from_slice(planned.shape, &values, Device::Cpu)?)
}

/// A file of our own.
fn written(metadata: &Metadata) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    write(&path, metadata, &planned(), value).unwrap();
    (folder, path)
}

#[test]
fn what_is_written_comes_back() {
    for alignment in [None, Some(8_u32), Some(256)] {
        let (mut metadata, _) = open_bytes(FILES[1].1).unwrap();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", alignment);
        }
        let (folder, path) = written(&metadata);
        let (read, file) = open(&path).unwrap();
        assert_eq!(read.values, metadata.values);
        for planned in planned() {
            assert_eq!(file.encoding(&planned.name), Some(planned.encoding));
            let read = file.tensor(&planned.name, Device::Cpu).unwrap();
            assert_eq!(read.shape(), planned.shape);
            let expected = value(&planned).unwrap();
            let pairs = read
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .zip(expected.as_slice::<f32>().unwrap());
            let worst = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            let allowed = match planned.encoding {
                Encoding::F32 => 0.0,
                Encoding::Blocks(Blocks::Q4_0) => 0.04,
                Encoding::Blocks(Blocks::Q8_0) => 4e-3,
                _ => 2e-3,
            };
            assert!(worst <= allowed, "{}: {worst}", planned.name);
        }
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes.is_multiple_of(alignment.unwrap_or(32).into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "leftovers");
    }
}

#[test]
fn blocks_of_a_file_are_those_of_the_package() {
    let (metadata, file) = open_bytes(FILES[1].1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let planned = ["F32", "F16", "BF16", "Q8_0", "Q4_0"].map(|name| Planned {
        name: name.into(),
        shape: [2, 3, 32].into(),
        encoding: file.encoding(name).unwrap(),
    });
    let exact = file.tensor("F32", Device::Cpu).unwrap();
    write(&path, &metadata, &planned, |_| Ok(exact.clone())).unwrap();
    let (_, again) = open(&path).unwrap();
    for Planned { name, .. } in &planned {
        let values = [&again, &file].map(|file| file.tensor(name, Device::Cpu).unwrap());
        let [ours, theirs] = values.each_ref().map(|values| values.as_bytes().unwrap());
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn what_cannot_be_written_says_why_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let refused = |shape: Shape, encoding| {
        let plan = Planned {
            name: "a".into(),
            shape,
            encoding,
        };
        let error = write(&path, &Metadata::default(), &[plan], value).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        match error {
            Error::File { source, .. } => source,
            error => panic!("{error}"),
        }
    };
    for (shape, encoding, expected) in [
        (
            Shape::from([2, 48]),
            Encoding::Blocks(Blocks::Q4_0),
            Fault::Columns(
                "a".into(),
                Box::new([2, 48].into()),
                Encoding::Blocks(Blocks::Q4_0),
            ),
        ),
        (
            [1, 1, 1, 1, 1].into(),
            Encoding::F32,
            Fault::Format("a".into(), Encoding::F32),
        ),
        (
            [1].into(),
            Encoding::U32,
            Fault::Format("a".into(), Encoding::U32),
        ),
        (
            [1, 256].into(),
            Encoding::F64,
            Fault::Unplanned(
                "a".into(),
                Box::new([1, 256].into()),
                serpens_core::DType::F32,
            ),
        ),
    ] {
        assert_same(refused(shape, encoding), expected);
    }
    let mut metadata = Metadata::default();
    metadata.set("general.alignment", 24_u32);
    assert!(matches!(
        write(&path, &metadata, &[], value),
        Err(Error::File {
            source: Fault::Alignment(24),
            ..
        })
    ));
    metadata.set("general.alignment", 32_i32);
    assert!(matches!(
        write(&path, &metadata, &[], value),
        Err(Error::File {
            source: Fault::OtherType(..),
            ..
        })
    ));
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    for ((_, bytes), alignment) in FILES.into_iter().zip([64, 32]) {
        fs::write(&path, bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // The last tensor has four bytes; what fills its place up may be missing.
        for length in (0..bytes.len() - (alignment - 4)).rev() {
            file.set_len(length as u64).unwrap();
            let Err(Error::File {
                path: named,
                source,
            }) = open(&path)
            else {
                panic!("{length} bytes are read");
            };
            assert!(
                named == path && !source.to_string().contains('\n'),
                "{source}"
            );
        }
    }
}

/// A header with these numbers of tensors and keys, and what follows.
fn header(version: u32, tensors: u64, keys: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    version.write(&mut bytes);
    tensors.write(&mut bytes);
    keys.write(&mut bytes);
    rest(&mut bytes);
    bytes
}

/// Adds what a header says of a tensor.
fn record(bytes: &mut Vec<u8>, name: &str, dims: &[u64], number: u32, place: u64) {
    name.to_owned().write(bytes);
    (dims.len() as u32).write(bytes);
    dims.iter().for_each(|dim| dim.write(bytes));
    number.write(bytes);
    place.write(bytes);
}

#[test]
fn other_versions_and_beginnings_are_named() {
    assert_truncated(fault(b""));
    assert_same(fault(b"GGML\x03\0\0\0"), Fault::Magic);
    for version in [0, 1, 4, 1 << 20] {
        let found = fault(&header(version, 0, 0, |_| {}));
        assert_same(found, Fault::Version(version));
    }
    assert_same(fault(&header(3 << 24, 0, 0, |_| {})), Fault::BigEndian);
    assert!(open_bytes(&header(3, 0, 0, |_| {})).is_ok());
}

#[test]
fn counts_and_lengths_beyond_the_file_take_no_memory() {
    const HUGE: u64 = 1 << 60;
    for (tensors, keys) in [(HUGE, 0), (0, HUGE), (u64::MAX, u64::MAX)] {
        assert_truncated(fault(&header(3, tensors, keys, |_| {})));
    }
    let key = |rest: &dyn Fn(&mut Vec<u8>)| {
        fault(&header(3, 0, 1, |bytes| {
            "k".to_owned().write(bytes);
            rest(bytes);
            bytes.extend([0; 100]);
        }))
    };
    assert_truncated(fault(&header(3, 0, 1, |bytes| HUGE.write(bytes))));
    let text = |bytes: &mut Vec<u8>| {
        8_u32.write(bytes);
        HUGE.write(bytes);
    };
    assert_truncated(key(&text));
    for kind in (0..=12).filter(|&kind| kind != 9) {
        let array = |bytes: &mut Vec<u8>| {
            [9, kind]
                .iter()
                .for_each(|number: &u32| number.write(bytes));
            HUGE.write(bytes);
        };
        assert_truncated(key(&array));
    }
    for number in [13, 99] {
        let found = key(&|bytes| number.write(bytes));
        assert_same(found, Fault::Type("k".into(), number));
    }
    let nested = |bytes: &mut Vec<u8>| [9_u32, 9].iter().for_each(|number| number.write(bytes));
    assert_same(key(&nested), Fault::Type("k".into(), 9));
}

#[test]
fn keys_and_texts_that_are_wrong_are_named() {
    fn key<T: Kind>(bytes: &mut Vec<u8>, key: &str, value: T) {
        key.to_owned().write(bytes);
        bytes.extend(T::TYPE);
        value.write(bytes);
    }
    let twice = header(3, 0, 2, |bytes| {
        for i in 0..2_u8 {
            key(bytes, "k", i);
        }
    });
    assert_same(fault(&twice), Fault::Key("k".into()));
    for alignment in [0, 24, 1_u32 << 17] {
        let bytes = header(3, 0, 1, |bytes| key(bytes, "general.alignment", alignment));
        assert_same(fault(&bytes), Fault::Alignment(alignment));
    }
    let text = header(3, 0, 1, |bytes| {
        1_u64.write(bytes);
        bytes.push(0xff);
    });
    assert!(fault(&text).to_string().contains("invalid utf-8"));
}

#[test]
fn tensors_that_do_not_lie_where_they_may_are_named() {
    type Record<'a> = (&'a str, &'a [u64], u32, u64);
    let file = |records: &[Record<'_>]| {
        let mut bytes = header(3, records.len() as u64, 0, |bytes| {
            for &(name, dims, number, place) in records {
                record(bytes, name, dims, number, place);
            }
        });
        bytes.resize(bytes.len().next_multiple_of(32) + 128, 0);
        bytes
    };
    let whole: [Record<'_>; 3] = [("a", &[16], 0, 64), ("b", &[16], 0, 0), ("c", &[0], 0, 128)];
    assert!(open_bytes(&file(&whole)).is_ok());
    let place = |name: &str| Fault::Place(name.into());
    for (records, expected) in [
        (
            &[("a", &[16_u64][..], 0, 0), ("b", &[16], 0, 32)][..],
            place("b"),
        ),
        (&[("a", &[16], 0, 16)], place("a")),
        (&[("a", &[16], 0, 96)], place("a")),
        (&[("a", &[33], 0, 0)], place("a")),
        (&[("a", &[1], 0, u64::MAX - 31)], place("a")),
        (&[("a", &[1 << 60], 0, 0)], place("a")),
        (&[("a", &[1 << 32, 1 << 32], 0, 0)], place("a")),
        (
            &[("a", &[48], 8, 0)],
            Fault::Columns(
                "a".into(),
                Box::new([48].into()),
                Encoding::Blocks(Blocks::Q8_0),
            ),
        ),
        (
            &[("a", &[16], 0, 0), ("a", &[16], 0, 64)],
            Fault::Twice("a".into()),
        ),
        (&[("a", &[1], 4, 0)], Fault::Number("a".into(), 4)),
        (&[("a", &[1], 42, 0)], Fault::Number("a".into(), 42)),
    ] {
        assert_same(fault(&file(records)), expected);
    }
    let rank = fault(&file(&[("a", &[1; 7], 0, 0)]));
    assert_same(rank, Fault::Rank("a".into(), 7));
}

/// The files beside this repository, where they are given: all of them open, and all that is in them is read.
#[test]
fn files_that_are_given_are_read() {
    let Some(folder) = std::env::var_os("SERPENS_GGUF_FILES") else {
        eprintln!("skipped: SERPENS_GGUF_FILES names no folder");
        return;
    };
    let files = fs::read_dir(Path::new(&folder))
        .unwrap()
        .map(|file| file.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|name| name == "gguf")) {
        let (_, file) = open(&path).unwrap();
        for (name, _) in file.tensors() {
            let tensor = file.tensor(name, Device::Cpu).unwrap();
            assert!(
                tensor
                    .as_slice::<f32>()
                    .unwrap()
                    .iter()
                    .all(|x| x.is_finite()),
                "{name}"
            );
        }
    }
}
