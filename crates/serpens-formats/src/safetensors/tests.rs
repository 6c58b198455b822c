//! Files as the format's own library writes them, and those that are refused.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serpens_core::files::Unread;
use serpens_core::{DType, Device, Tensor, bf16};
use serpens_ops::quantized_linear::Blocks;
use twox_hash::XxHash3_64;

use super::*;
use crate::{Encoding, Error, Fault, Planned, Result, TensorFile, Verify, shards};

fn tensors() -> Vec<(&'static str, Tensor)> {
    let halves = [1.0, -2.5, 3e30].map(bf16::from_f32);
    vec![
        (
            "later",
            Tensor::from_slice([3], &halves, Device::Cpu).unwrap(),
        ),
        (
            "b",
            Tensor::from_slice([2, 2], &[1.5_f32, f32::NAN, -0.0, 1e-40], Device::Cpu).unwrap(),
        ),
        (
            "ids",
            Tensor::from_slice([1, 2], &[7_u32, u32::MAX], Device::Cpu).unwrap(),
        ),
        (
            "a",
            Tensor::from_slice([0, 5], &[0.0_f32; 0], Device::Cpu).unwrap(),
        ),
    ]
}

/// The tensors as the format's own library takes them.
fn views<'a>(tensors: &'a [(&'a str, Tensor)]) -> impl Iterator<Item = (&'a str, TensorView<'a>)> {
    let types = [Dtype::BF16, Dtype::F32, Dtype::U32, Dtype::F32];
    tensors.iter().zip(types).map(|((name, tensor), dtype)| {
        let bytes = tensor.as_bytes().unwrap();
        let view = TensorView::new(dtype, tensor.shape().to_vec(), bytes).unwrap();
        (*name, view)
    })
}

/// Where the tensors' bytes begin.
fn data_start(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

#[test]
fn the_formats_own_library_reads_a_file_and_would_write_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for count in 0..=tensors().len() {
        let tensors = &tensors()[..count];
        write_tensors(&path, tensors).unwrap();
        let ours = fs::read(&path).unwrap();
        let theirs = safetensors::serialize(views(tensors), None).unwrap();
        let (from, their_from) = (data_start(&ours), data_start(&theirs));
        assert_eq!(ours[from..], theirs[their_from..]);
        assert!(from.is_multiple_of(8), "whole words");
        let (_, header) = SafeTensors::read_metadata(&ours).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        let read = SafeTensors::deserialize(&ours).unwrap();
        assert_eq!(read.len(), count);
        for (name, view) in views(tensors) {
            assert_eq!(read.tensor(name).unwrap(), view);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "leftovers");
}

#[test]
fn tensors_come_back_to_the_bit_and_halves_in_full_width() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_tensors(&path, &tensors()).unwrap();
    let read = read_tensors(&path, Device::Cpu, Verify::Digests).unwrap();
    assert_eq!(read.keys().collect::<Vec<_>>(), ["a", "b", "ids", "later"]);
    for (name, before) in tensors() {
        let after = &read[name];
        assert_eq!(after.shape(), before.shape());
        match name {
            "later" => {
                let wide = before.as_slice::<bf16>().unwrap().iter();
                let wide: Vec<f32> = wide.map(|v| v.to_f32()).collect();
                assert_eq!(after.as_slice::<f32>().unwrap(), wide);
            }
            _ => assert_eq!(after.as_bytes().unwrap(), before.as_bytes().unwrap()),
        }
    }
}

/// A file with this header and so many bytes of data.
fn write_raw(path: &Path, header: &str, bytes: usize) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..bytes).map(|i| i as u8));
    fs::write(path, file).unwrap();
}

#[test]
fn tensors_that_are_not_aligned_and_f16_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let header = r#"{"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"f":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
    write_raw(&path, header, 6);
    let read = read_tensors(&path, Device::Cpu, Verify::Digests).unwrap();
    let value = |name: &str| read[name].as_slice::<f32>().unwrap()[0];
    assert_eq!(value("f"), f32::from_le_bytes([2, 3, 4, 5]));
    assert_eq!(value("h"), half::f16::from_le_bytes([0, 1]).to_f32());
}

#[test]
fn a_file_cut_off_after_it_was_opened_is_an_error_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let header = r#"{"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    write_raw(&path, header, 8);
    let file = open(&path, Verify::Digests).unwrap();
    let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.set_len(8 + header.len() as u64 + 4).unwrap();
    assert!(matches!(
        file.tensor("f", Device::Cpu),
        Err(Error::Io(error))
            if error.path == path && error.source.kind() == std::io::ErrorKind::UnexpectedEof
    ));
}

#[test]
fn what_is_not_read_says_which_tensor_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_raw(
        &path,
        r#"{"d":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#,
        8,
    );
    let file = open(&path, Verify::Digests).unwrap();
    assert!(matches!(
        file.tensor("d", Device::Cpu),
        Err(Error::File { source: Fault::Encoding(name, Encoding::Other("I64")), .. })
            if name == "d"
    ));
    assert!(matches!(
        file.tensor("e", Device::Cpu),
        Err(Error::File { source: Fault::Missing(name), .. }) if name == "e"
    ));
    write_raw(
        &path,
        r#"{"d":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#,
        8,
    );
    let error = open(&path, Verify::Digests).unwrap();
    let error = error.tensor("d", Device::Cpu).unwrap_err().to_string();
    assert!(
        error.contains("tensor d is stored as F8_E4M3, which is not read"),
        "{error}"
    );
    let ones = vec!["1"; 99].join(",");
    write_raw(
        &path,
        &format!(r#"{{"r":{{"dtype":"U8","shape":[{ones}],"data_offsets":[0,1]}}}}"#),
        1,
    );
    assert!(matches!(
        open(&path, Verify::Digests),
        Err(Error::File { source: Fault::Rank(name, 99), .. }) if name == "r"
    ));
    write_raw(
        &path,
        r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
        7,
    );
    assert!(matches!(
        open(&path, Verify::Digests),
        Err(Error::File {
            source: Fault::Safetensors(_),
            ..
        })
    ));
}

/// The file, or those of its index.
fn open_all(path: &Path, verify: Verify) -> Result<Vec<TensorFile>> {
    let files = shards(path)?.unwrap_or_else(|| vec![path.to_owned()]);
    files.iter().map(|file| open(file, verify)).collect()
}

#[test]
fn a_whole_file_is_preferred_to_an_index_and_a_broken_index_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let index = dir.path().join("model.safetensors.index.json");
    write_tensors(&dir.path().join("one"), &tensors()[..1]).unwrap();
    write_tensors(&dir.path().join("two"), &tensors()[1..]).unwrap();
    fs::write(
        &index,
        r#"{"weight_map": {"later": "one", "b": "two", "a": "two"}}"#,
    )
    .unwrap();
    let names = |path: &Path| -> Vec<String> {
        let files = open_all(path, Verify::Digests).unwrap();
        files
            .iter()
            .flat_map(|file| file.tensors().map(|(name, _)| name.to_owned()))
            .collect()
    };
    assert_eq!(names(&path), ["later", "a", "b", "ids"]);
    fs::write(&index, "{}").unwrap();
    assert!(
        matches!(open_all(&path, Verify::Digests), Err(Error::File { path, source: Fault::Json(..) }) if path == index)
    );
    write_tensors(&path, &tensors()[3..]).unwrap();
    assert_eq!(names(&path), ["a"]);
    fs::remove_file(&path).unwrap();
    fs::write(&index, r#"{"weight_map": {}}"#).unwrap();
    assert!(matches!(
        open_all(&path, Verify::Digests),
        Err(Error::File { path, source: Fault::NoWeights }) if path == index
    ));
    let elsewhere = dir.path().join("one").to_string_lossy().into_owned();
    for file in ["../one", "a/../../one", &elsewhere, ".", ""] {
        let text = serde_json::json!({ "weight_map": { "a": "two", "later": file } });
        fs::write(&index, text.to_string()).unwrap();
        assert!(matches!(
            open_all(&path, Verify::Digests),
            Err(Error::File { source: Fault::Outside(named), .. }) if named == file
        ));
    }
    fs::remove_file(&index).unwrap();
    assert!(matches!(
        open_all(&path, Verify::Digests),
        Err(Error::Io { .. })
    ));
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let entry = r#""a":{"dtype":"U8","shape":[1],"data_offsets":"#;
    for (second, bytes) in [("[1,2]", 2), ("[0,1]", 1)] {
        write_raw(
            &path,
            &format!("{{{entry}[0,1]}},{entry}{second}}}}}"),
            bytes,
        );
        let error = open(&path, Verify::Digests).err().unwrap();
        assert!(matches!(
            error,
            Error::File { source: Fault::Twice(name), .. } if name == "a"
        ));
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let index = dir.path().join("y.index.json");
    std::os::unix::fs::symlink("/dev/zero", &index).unwrap();
    for (path, named) in [(&path, &path), (&dir.path().join("y"), &index)] {
        let error = open_all(path, Verify::Digests).err().unwrap();
        let Error::Io(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.path, *named);
        let reason = error.source.into_inner().unwrap().downcast::<Unread>();
        assert!(matches!(*reason.unwrap(), Unread::NoFile));
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_tensors(&path, &tensors()).unwrap();
    let good = fs::read(&path).unwrap();
    let values = |verify| {
        let read = read_tensors(&path, Device::Cpu, verify)?.into_iter();
        let read = read.map(|(name, value)| {
            let bytes = value.as_bytes().unwrap().to_vec();
            (name, value.shape(), bytes)
        });
        Ok::<Vec<_>, Error>(read.collect())
    };
    let expected = values(Verify::Digests).unwrap();
    let mut unnoticed = 0;
    for bit in 0..8 * good.len() {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        match values(Verify::Digests) {
            Ok(read) => assert_eq!(read, expected, "bit {bit}"),
            Err(Error::File {
                path: named,
                source,
            }) => {
                assert_eq!(named, path);
                assert!(matches!(
                    source,
                    Fault::Safetensors(_) | Fault::Digest(..) | Fault::Encoding(..)
                ));
            }
            Err(error) => panic!("{error}"),
        }
        unnoticed += usize::from(values(Verify::Nothing).is_ok_and(|read| read != expected));
    }
    assert!(unnoticed > 8 * 30, "the way around reads what is there");
}

#[test]
fn a_digest_is_that_of_the_chunks_the_type_the_shape_and_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let values: Vec<u32> = (0..100_000).collect(); // a chunk and a half
    let tensor = Tensor::from_slice([100, 1000], &values, Device::Cpu).unwrap();
    write_tensors(&path, &[("a", &tensor)]).unwrap();
    let bytes = tensor.as_bytes().unwrap();
    let mut hashed = Vec::new();
    for chunk in [&bytes[..256 << 10], &bytes[256 << 10..]] {
        hashed.extend(XxHash3_64::oneshot(chunk).to_le_bytes());
    }
    hashed.extend(b"U32 [100, 1000] a");
    let digest = format!("{:016x}", XxHash3_64::oneshot(&hashed));
    let file = fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["serpens.xxh3"], digest);
}

#[test]
fn a_file_is_written_in_the_encoding_that_is_planned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let value = Tensor::from_slice([3], &[0.1_f32, -1e-7, f32::NAN], Device::Cpu).unwrap();
    for (encoding, dtype) in [
        (Encoding::F32, Dtype::F32),
        (Encoding::BF16, Dtype::BF16),
        (Encoding::F16, Dtype::F16),
    ] {
        let planned = Planned {
            name: "a".into(),
            shape: [3].into(),
            encoding,
        };
        write(&path, &[planned], |_| Ok(value.clone())).unwrap();
        let file = fs::read(&path).unwrap();
        let stored = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(stored.tensor("a").unwrap().dtype(), dtype);
        let file = open(&path, Verify::Digests).unwrap();
        assert_eq!(file.encoding("a"), Some(encoding));
        let read = file.tensor("a", Device::Cpu).unwrap();
        let [a, b, c] = read.as_slice::<f32>().unwrap() else {
            panic!("three values");
        };
        let expected = match encoding {
            Encoding::F32 => [0.1, -1e-7],
            Encoding::BF16 => [0.1, -1e-7].map(|x| bf16::from_f32(x).to_f32()),
            _ => [0.1, -1e-7].map(|x| half::f16::from_f32(x).to_f32()),
        };
        assert!([*a, *b] == expected && c.is_nan(), "{encoding}");
    }
}

#[test]
fn what_cannot_be_written_as_planned_says_why_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let write = |names: &[&str], encoding, value: Tensor| {
        let planned = names.iter().map(|&name| Planned {
            name: name.into(),
            shape: [2].into(),
            encoding,
        });
        let failed = write(&path, &planned.collect::<Vec<_>>(), |_| Ok(value.clone()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        match failed.unwrap_err() {
            Error::File { source, .. } => source.to_string(),
            error => panic!("{error}"),
        }
    };
    let value = |values: &[f32]| Tensor::from_slice([values.len()], values, Device::Cpu).unwrap();
    let ids = Tensor::from_slice([2], &[1_u32, 2], Device::Cpu).unwrap();
    for (names, encoding, value, expected) in [
        (
            &["a"][..],
            Encoding::F16,
            value(&[1.0, 1e6]),
            Fault::Value("a".into(), Encoding::F16),
        ),
        (
            &["a"],
            Encoding::F16,
            value(&[1.0; 3]),
            Fault::Unplanned("a".into(), Box::new([3].into()), DType::F32),
        ),
        (
            &["a"],
            Encoding::F16,
            ids,
            Fault::Unplanned("a".into(), Box::new([2].into()), DType::U32),
        ),
        (
            &["a", "a"],
            Encoding::F32,
            value(&[1.0; 2]),
            Fault::Twice("a".into()),
        ),
        (
            &["a"],
            Encoding::Blocks(Blocks::Q6_K),
            value(&[1.0; 2]),
            Fault::Format("a".into(), Encoding::Blocks(Blocks::Q6_K)),
        ),
    ] {
        assert_eq!(write(names, encoding, value), expected.to_string());
    }
}
