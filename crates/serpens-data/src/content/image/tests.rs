//! Images from files that are made here.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::files::find;

/// Name, values and channels of each record of a file of these bytes.
fn records(bytes: &[u8], config: &ImageConfig) -> Result<Vec<(String, Vec<f32>, usize)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, bytes).unwrap();
    let mut records: Vec<(String, Vec<f32>, usize)> = Vec::new();
    read::<Error>(config, &find(path.to_str().unwrap())?[0], &mut |block| {
        let Read::Values { values, channels } = block.read else {
            panic!("values");
        };
        if block.begins {
            records.push((block.name, Vec::new(), channels));
        }
        records.last_mut().unwrap().1.extend(values);
        Ok(())
    })?;
    Ok(records)
}

fn refusal(bytes: &[u8], config: &ImageConfig) -> String {
    let error = records(bytes, config).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
        .split_once("a`")
        .expect("it names the file")
        .1
        .to_owned()
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// An IDX file of this many images of 2×2, whose pixels count on.
fn idx(count: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2];
    bytes.extend(0..4 * count);
    bytes
}

fn pixels(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .map(|value| ((value + 1.0) * 127.5).round() as u8)
        .collect()
}

#[test]
fn patches_follow_each_other_row_by_row_as_do_their_pixels() {
    let image = RgbImage::from_fn(4, 2, |x, y| Rgb([(y * 4 + x) as u8, 100, 200]));
    let png = encoded(&image, ImageFormat::Png);
    let config = ImageConfig {
        patch: 2,
        colours: Colours::Rgb,
        size: None,
    };
    let [(name, values, channels)] = &records(&png, &config).unwrap()[..] else {
        panic!("one record");
    };
    assert_eq!((&name[..], *channels, values.len()), ("", 12, 24));
    let red: Vec<u8> = pixels(values).into_iter().step_by(3).collect();
    assert_eq!(red, [0, 1, 4, 5, 2, 3, 6, 7]);
    assert_eq!(
        values[..3],
        [-1.0, 100.0 / 127.5 - 1.0, 200.0 / 127.5 - 1.0]
    );
}

#[test]
fn brightness_is_that_of_bt_709_and_sizes_are_changed() {
    let image = RgbImage::from_pixel(6, 3, Rgb([255, 0, 0]));
    let config = ImageConfig {
        patch: 2,
        colours: Colours::Grey,
        size: Some([4, 4]),
    };
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let (_, values, channels) = records(&encoded(&image, format), &config)
            .unwrap()
            .remove(0);
        assert_eq!((values.len(), channels), (16, 4));
        for value in pixels(&values) {
            assert!((53..=55).contains(&value), "{format:?}: {value}"); // 0.2126 · 255
        }
    }
}

#[test]
fn large_images_come_in_blocks_of_one_record() {
    let image = RgbImage::from_fn(1024, 768, |x, y| Rgb([(x ^ y) as u8; 3]));
    let config = ImageConfig {
        patch: 4,
        ..Default::default()
    };
    let records = records(&encoded(&image, ImageFormat::Png), &config).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].1.len(), 1024 * 768);
    assert_eq!(
        pixels(&records[0].1[1024 * 764..][..4]),
        [252, 253, 254, 255]
    );
}

#[test]
fn images_of_idx_are_called_by_their_number_and_have_labels() {
    let config = ImageConfig {
        patch: 1,
        ..Default::default()
    };
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&idx(3)).unwrap();
    for bytes in [idx(3), packed.finish().unwrap()] {
        let records = records(&bytes, &config).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!((&*records[2].0, records[2].2), ("2", 1));
        assert_eq!(pixels(&records[2].1), [8, 9, 10, 11]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels");
    fs::write(&path, [0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]).unwrap();
    assert_eq!(idx_labels(&path).unwrap(), [7, 0, 9]);
    fs::write(&path, [0, 0, 8, 1, 0xff, 0xff, 0xff, 0xff, 7]).unwrap();
    let cut = idx_labels(&path).unwrap_err().to_string();
    assert!(
        cut.ends_with("`: it ends before what its header promises: give it whole"),
        "{cut}"
    );
    fs::write(&path, idx(1)).unwrap();
    let other = idx_labels(&path).unwrap_err().to_string();
    assert!(other.contains("no IDX file of labels"), "{other}");
}

#[test]
fn what_is_no_image_is_refused_in_a_line() {
    let config = ImageConfig::default();
    let image = RgbImage::from_fn(30, 28, |x, y| Rgb([x as u8, y as u8, 9]));
    let png = encoded(&image, ImageFormat::Png);
    assert_eq!(
        refusal(&png, &config),
        ": patches of 4×4 pixels do not tile the 30×28 of an image (of at most 2^26): set `size` to multiples of `patch`"
    );
    let none = ImageConfig {
        patch: 0,
        ..config.clone()
    };
    assert!(refusal(&png, &none).contains("patches of 0×0 pixels"));
    assert!(refusal(&idx(1), &config).starts_with(", image 0: patches of 4×4"));
    for bytes in [&png[..png.len() / 2], b"no image"] {
        let message = refusal(bytes, &config);
        assert!(
            message.starts_with(": it is no image that can be read ("),
            "{message}"
        );
    }
    let cut = ": it ends before what its header promises: give it whole";
    let small = ImageConfig {
        patch: 1,
        ..config.clone()
    };
    assert_eq!(refusal(&idx(2)[..22], &small), cut);
    assert_eq!(refusal(&idx(2)[..9], &small), cut);
    let large = [
        0, 0, 8, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    assert!(refusal(&large, &small).contains("4294967295×4294967295 pixels"));
    assert!(refusal(&[0, 0, 8, 1, 0, 0, 0, 0], &config).starts_with(": it holds labels"));
}

#[test]
fn a_bomb_is_refused_by_what_its_header_says() {
    let mut png = encoded(&RgbImage::new(4, 4), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]); // 65,536 × 65,536
    let mut sum = flate2::Crc::new();
    sum.update(&png[12..29]);
    png[29..33].copy_from_slice(&sum.sum().to_be_bytes());
    let message = refusal(&png, &ImageConfig::default());
    assert!(message.contains("limit"), "{message}");
}
