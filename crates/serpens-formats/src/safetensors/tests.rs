//! Files as the format's own library writes them, and those that are refused.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serpens_core::{Device, Tensor, bf16};

use super::*;
use crate::Error;

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

/// The bytes that the format's own library makes of the tensors.
fn by_the_library(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let types = [Dtype::BF16, Dtype::F32, Dtype::U32, Dtype::F32];
    let views = tensors.iter().zip(types).map(|((name, tensor), dtype)| {
        let bytes = tensor.as_bytes().unwrap();
        let view = TensorView::new(dtype, tensor.dims().to_vec(), bytes).unwrap();
        (*name, view)
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn a_file_has_the_bytes_that_the_formats_own_library_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for count in 0..=tensors().len() {
        let tensors = &tensors()[..count];
        write_tensors(&path, tensors).unwrap();
        assert_eq!(fs::read(&path).unwrap(), by_the_library(tensors));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "leftovers");
}

#[test]
fn tensors_come_back_to_the_bit_and_halves_in_full_width() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_tensors(&path, &tensors()).unwrap();
    let read = read_tensors(&path, Device::Cpu).unwrap();
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
    let read = read_tensors(&path, Device::Cpu).unwrap();
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
    let file = open(&path).unwrap();
    let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.set_len(8 + header.len() as u64 + 4).unwrap();
    assert!(matches!(
        file.tensor("f", Device::Cpu),
        Err(Error::Io { path: named, source, .. })
            if named == path && source.kind() == std::io::ErrorKind::UnexpectedEof
    ));
}

#[test]
fn what_is_not_read_says_which_tensor_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_raw(
        &path,
        r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
        8,
    );
    let file = open(&path).unwrap();
    assert!(matches!(
        file.tensor("d", Device::Cpu),
        Err(Error::DType { name, found: Dtype::F64, .. }) if name == "d"
    ));
    assert!(matches!(
        file.tensor("e", Device::Cpu),
        Err(Error::MissingTensor { name, .. }) if name == "e"
    ));
    let ones = vec!["1"; 99].join(",");
    write_raw(
        &path,
        &format!(r#"{{"r":{{"dtype":"U8","shape":[{ones}],"data_offsets":[0,1]}}}}"#),
        1,
    );
    assert!(matches!(
        open(&path),
        Err(Error::Rank { name, found: 99, .. }) if name == "r"
    ));
    write_raw(
        &path,
        r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
        7,
    );
    assert!(matches!(open(&path), Err(Error::Safetensors { .. })));
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
        let files = open_all(path).unwrap();
        files
            .iter()
            .flat_map(|file| file.tensors().map(|(name, _)| name.to_owned()))
            .collect()
    };
    assert_eq!(names(&path), ["later", "a", "b", "ids"]);
    fs::write(&index, "{}").unwrap();
    assert!(matches!(open_all(&path), Err(Error::Json { path, .. }) if path == index));
    write_tensors(&path, &tensors()[3..]).unwrap();
    assert_eq!(names(&path), ["a"]);
    fs::remove_file(&path).unwrap();
    fs::remove_file(&index).unwrap();
    assert!(matches!(open_all(&path), Err(Error::Io { .. })));
}
