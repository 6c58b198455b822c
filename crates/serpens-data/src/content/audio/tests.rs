//! Sound from files that are written here byte by byte.

use std::f64::consts::TAU;
use std::fs;

use super::*;
use crate::Result;
use crate::files::find;

/// What is read of a file of these bytes, and how many blocks it came in.
fn values_of(bytes: &[u8], rate: u32) -> Result<(Vec<f32>, usize)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.wav");
    fs::write(&path, bytes).unwrap();
    let file = &find(path.to_str().unwrap())?[0];
    let form = AudioForm::Values;
    let (mut all, mut blocks, mut ended) = (Vec::new(), 0, false);
    read::<Error>(&AudioConfig { rate, form }, file, &mut |block| {
        assert_eq!((block.begins, ended), (blocks == 0, false));
        ended = block.ends;
        blocks += 1;
        let Read::Values {
            values,
            channels: 1,
        } = block.read
        else {
            panic!("values of one channel");
        };
        all.extend(values);
        Ok(())
    })?;
    assert!(ended);
    Ok((all, blocks))
}

/// A WAV file of one `data` chunk.
fn wav([tag, channels, bits]: [u16; 3], rate: u32, data: &[u8]) -> Vec<u8> {
    let frame = channels * bits.div_ceil(8);
    let mut body = b"WAVEfmt ".to_vec();
    let extended = (channels > 2).then(|| {
        let mut more = [22_u16, bits, 7, 0, tag].map(u16::to_le_bytes).concat();
        more.extend(*b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
        more
    });
    let tag = if extended.is_some() { 0xfffe } else { tag };
    let more = extended.unwrap_or_default();
    body.extend((16 + more.len() as u32).to_le_bytes());
    body.extend([tag, channels].map(u16::to_le_bytes).concat());
    body.extend(
        [rate, rate * u32::from(frame)]
            .map(u32::to_le_bytes)
            .concat(),
    );
    body.extend([frame, bits].map(u16::to_le_bytes).concat());
    body.extend(more);
    body.extend(b"LIST\x03\0\0\0odd\0"); // chunks are padded to even places
    body.extend(b"data");
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

fn refusal(bytes: &[u8]) -> String {
    let error = values_of(bytes, 8000).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
        .split_once("a.wav`")
        .expect("it names the file")
        .1
        .to_owned()
}

#[test]
fn every_kind_of_wav_has_the_values_it_was_written_with() {
    let values = [0.0, 0.5, -0.5, -1.0, 0.25];
    let scaled = |bits: i32| values.map(|v: f64| (v * 2_f64.powi(bits - 1)) as i32);
    let eight = scaled(8).map(|v| (v + 128) as u8);
    let [sixteen, many] = [16, 24].map(scaled);
    let sixteen = sixteen.map(|v| (v as i16).to_le_bytes()).concat();
    let many: Vec<u8> = many
        .iter()
        .flat_map(|v| v.to_le_bytes().into_iter().take(3))
        .collect();
    let long = scaled(32).map(i32::to_le_bytes).concat();
    let float = values.map(|v| (v as f32).to_le_bytes()).concat();
    let double = values.map(f64::to_le_bytes).concat();
    let kinds: [(u16, u16, &[u8]); 6] = [
        (1, 8, &eight),
        (1, 16, &sixteen),
        (1, 24, &many),
        (1, 32, &long),
        (3, 32, &float),
        (3, 64, &double),
    ];
    for (tag, bits, data) in kinds {
        let (read, _) = values_of(&wav([tag, 1, bits], 8000, data), 8000).unwrap();
        assert_eq!(read, values.map(|v| v as f32), "format {tag}, {bits} bits");
    }
    // 20 bits are the upper ones of 24.
    assert_eq!(
        values_of(&wav([1, 1, 20], 8000, &many), 8000).unwrap().0[1],
        0.5
    );
}

#[test]
fn channels_are_averaged_and_loud_floats_clipped() {
    let samples = [0.5, -0.25, 3.0, 1.5].map(f32::to_le_bytes).concat();
    let (stereo, _) = values_of(&wav([3, 2, 32], 8000, &samples), 8000).unwrap();
    assert_eq!(stereo, [0.125, 1.0]);
    let samples = [300_i16, 600, 900].map(i16::to_le_bytes).concat();
    let (three, _) = values_of(&wav([1, 3, 16], 8000, &samples), 8000).unwrap();
    assert_eq!(three, [600.0 / 32768.0]);
}

#[test]
fn of_wrong_lengths_what_is_there_is_read() {
    let data = [100_i16, 200, 300].map(i16::to_le_bytes).concat();
    let whole = wav([1, 1, 16], 8000, &data);
    let expected = [100.0, 200.0, 300.0].map(|v| v / 32768.0);
    let place = whole.len() - data.len() - 4;
    for (riff, length) in [(u32::MAX, u32::MAX), (0, 0), (36, 0), (36, 5000)] {
        let mut streamed = whole.clone();
        streamed[4..8].copy_from_slice(&riff.to_le_bytes());
        streamed[place..place + 4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(values_of(&streamed, 8000).unwrap().0, expected, "{length}");
    }
    // A sample that was cut in two is left out.
    assert_eq!(
        values_of(&whole[..whole.len() - 1], 8000).unwrap().0,
        expected[..2]
    );
    let followed = [&whole[..], b"LIST\x02\0\0\0ab"].concat();
    assert_eq!(values_of(&followed, 8000).unwrap().0, expected);
}

#[test]
fn what_holds_no_sound_is_refused_in_a_line() {
    let one = 0.5_f32.to_le_bytes();
    let cases = [
        (
            wav([1, 1, 16], 8000, &[]),
            ": it holds no sound (0 samples at 8000 Hz): leave it out",
        ),
        (
            wav([3, 1, 32], 8000, &[one, f32::NAN.to_le_bytes()].concat()),
            ", sample 1: it is no number (NaN): make the file anew",
        ),
        (
            wav([7, 1, 8], 8000, &[1]),
            ": it has WAV's format 7 (8 bits, 1 channels, 1 bytes for all, 8000 Hz), which is not read: make it one of integers of 8 to 32 bits or of floats",
        ),
        (
            wav([1, 1, 16], 0, &one),
            ": it has WAV's format 1 (16 bits, 1 channels, 2 bytes for all, 0 Hz), which is not read: make it one of integers of 8 to 32 bits or of floats",
        ),
        (
            wav([1, 0, 16], 8000, &one),
            ": it has WAV's format 1 (16 bits, 0 channels, 0 bytes for all, 8000 Hz), which is not read: make it one of integers of 8 to 32 bits or of floats",
        ),
        (
            wav([1, 1, 16], 3_000_000, &one),
            ": it has 3000000 Hz and the rate is 8000, which is too far to resample: set another rate, or convert the file",
        ),
        (
            wav([1, 1, 16], 8000, &one)[..50].to_vec(),
            ": it is cut before its sound: give it whole",
        ),
        (
            b"RIFF\x04\0\0\0AVI ".to_vec(),
            ": it has a RIFF header, but says no format of sound: make it a WAV file",
        ),
        (
            b"no sound".to_vec(),
            ": it is neither WAV nor FLAC: convert it to one of them, or leave it out",
        ),
        (
            b"a".to_vec(),
            ": it is neither WAV nor FLAC: convert it to one of them, or leave it out",
        ),
    ];
    for (bytes, message) in cases {
        assert_eq!(refusal(&bytes), message);
    }
}

#[test]
fn no_header_brings_the_reader_down() {
    let data = [100_i16, 200, 300].map(i16::to_le_bytes).concat();
    for whole in [wav([1, 3, 16], 8000, &data), flac(8000, &[&[1, 2, 3, -4]])] {
        for at in 0..whole.len() {
            for to in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = to;
                let _ = values_of(&bytes, 8000);
            }
            let _ = values_of(&whole[..at.max(1)], 8000);
        }
    }
}

/// A polynomial over two elements, as FLAC checks frames with.
fn crc(bytes: &[u8], bits: u32, polynomial: u32) -> u32 {
    let top = 1 << (bits - 1);
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << (bits - 8), |crc, _| {
            let next = crc << 1;
            (if crc & top != 0 {
                next ^ polynomial
            } else {
                next
            }) & (2 * top - 1)
        })
    })
}

/// A FLAC file of one channel of 16 bits, a frame for each slice, its samples as they are (RFC 9639).
fn flac(rate: u32, frames: &[&[i16]]) -> Vec<u8> {
    let total: usize = frames.iter().map(|frame| frame.len()).sum();
    let largest = frames.iter().map(|frame| frame.len() as u16).max().unwrap();
    let mut bytes = b"fLaC\x80\0\0\x22".to_vec();
    bytes.extend([largest, largest].map(u16::to_be_bytes).concat());
    bytes.extend([0; 6]);
    let info = u64::from(rate) << 44 | 15 << 36 | total as u64;
    bytes.extend(info.to_be_bytes());
    bytes.extend([0; 16]);
    for (number, samples) in frames.iter().enumerate() {
        let mut frame = vec![0xff, 0xf8, 0x70, 0x08, number as u8];
        frame.extend((samples.len() as u16 - 1).to_be_bytes());
        frame.push(crc(&frame, 8, 0x07) as u8);
        frame.push(0x02); // a subframe of samples as they are
        frame.extend(samples.iter().flat_map(|sample| sample.to_be_bytes()));
        frame.extend((crc(&frame, 16, 0x8005) as u16).to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn flac_has_its_samples_and_is_refused_when_cut() {
    let frames: Vec<Vec<i16>> = (0..3)
        .map(|frame| {
            (0..400)
                .map(|i| (i * 37 + frame * 1000 - 9000) as i16)
                .collect()
        })
        .collect();
    let frames: Vec<&[i16]> = frames.iter().map(Vec::as_slice).collect();
    let whole = flac(8000, &frames);
    let expected: Vec<f32> = frames
        .concat()
        .iter()
        .map(|&v| f32::from(v) / 32768.0)
        .collect();
    assert_eq!(values_of(&whole, 8000).unwrap().0, expected);
    let frame = (whole.len() - 42) / 3;
    for end in [42 + 2 * frame, 42 + 2 * frame + 99, 60] {
        let cut = refusal(&whole[..end]);
        assert!(cut.starts_with(": it is damaged or cut FLAC ("), "{cut}");
        assert!(cut.ends_with("): give it whole"), "{cut}");
    }
    let mut damaged = whole.clone();
    damaged[42 + frame + 300] ^= 1;
    let missing =
        ": it is damaged or cut FLAC (malformed stream: samples are missing): give it whole";
    assert_eq!(refusal(&damaged), missing);
}

/// A sine of this frequency and phase 0, 0.5 high.
fn sine(hertz: f64, rate: u32, count: usize) -> Vec<f32> {
    let step = TAU * hertz / f64::from(rate);
    (0..count)
        .map(|i| (0.5 * (step * i as f64).sin()) as f32)
        .collect()
}

fn resampled(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    let data: Vec<u8> = samples
        .iter()
        .flat_map(|sample| sample.to_le_bytes())
        .collect();
    values_of(&wav([3, 1, 32], from, &data), to).unwrap().0
}

/// The largest difference from b, away from both ends, against a sine of 0.5 in decibels.
fn decibels(a: &[f32], b: impl Fn(usize) -> f32) -> f64 {
    let away = 2000..a.len() - 2000;
    let most = away
        .map(|i| f64::from((a[i] - b(i)).abs()))
        .fold(1e-9, f64::max);
    20.0 * (most / 0.5).log10()
}

#[test]
fn a_sine_stays_the_same_sine_at_another_rate() {
    for (from, to) in [
        (44_100, 8000),
        (8000, 44_100),
        (48_000, 16_000),
        (11_025, 8000),
        (8000, 7999),
    ] {
        let read = resampled(&sine(440.0, from, 3 * from as usize), from, to);
        assert_eq!(read.len(), 3 * to as usize);
        let expected = sine(440.0, to, read.len());
        let off = decibels(&read, |i| expected[i]);
        assert!(off < -80.0, "{from} to {to}: {off} dB");
    }
    let high = resampled(&sine(3800.0, 44_100, 90_000), 44_100, 8000);
    let expected = sine(3800.0, 8000, high.len());
    assert!(
        decibels(&high, |i| expected[i]) < -40.0,
        "near the half rate"
    );
}

#[test]
fn what_is_above_the_half_rate_leaves_no_alias() {
    for hertz in [4100.0, 5000.0, 12_000.0] {
        let read = resampled(&sine(hertz, 44_100, 90_000), 44_100, 8000);
        let left = decibels(&read, |_| 0.0);
        assert!(left < -80.0, "{hertz} Hz: {left} dB");
    }
}

#[test]
fn lengths_are_rounded_and_long_files_come_in_blocks() {
    for count in [3_usize, 5, 6, 1000, 1001] {
        let read = resampled(&vec![0.1; count], 16_000, 5000);
        assert_eq!(read.len(), (count * 5 + 8) / 16, "{count}");
    }
    let data: Vec<u8> = (0..700_000)
        .flat_map(|i| (i as i16).to_le_bytes())
        .collect();
    let (values, blocks) = values_of(&wav([1, 1, 16], 8000, &data), 8000).unwrap();
    assert!(
        values
            .iter()
            .enumerate()
            .all(|(i, &v)| v == f32::from(i as i16) / 32768.0)
    );
    assert_eq!((values.len(), blocks), (700_000, 3));
}

#[test]
fn what_is_written_is_read_as_levels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.wav");
    write_wav(&path, &[0.0, 0.5, -1.0, 1.0, 9.0], 8000).unwrap();
    let file = &find(path.to_str().unwrap()).unwrap()[0];
    let mut text: Vec<u8> = Vec::new();
    read::<Error>(&AudioConfig::default(), file, &mut |block| {
        text.extend(block.text());
        Ok(())
    })
    .unwrap();
    assert_eq!(text, [0.0, 0.5, -1.0, 1.0, 1.0].map(mu_law));
}
