//! WAV: samples as they are, in a RIFF file.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};

use serpens_core::files::FileError;

use super::{READ, Samples};
use crate::error::{Error, Result};
use crate::files::Found;

/// An open file whose next bytes are samples.
pub(super) struct Wav<'a> {
    file: &'a Found,
    input: BufReader<File>,
    format: Format,
    /// Bytes of sound that are to come; the file may have fewer.
    left: u64,
    bytes: Vec<u8>,
}

/// What the `fmt ` chunk says.
#[derive(Clone, Copy)]
struct Format {
    /// 1 for integers, 3 for floats.
    tag: u16,
    channels: u16,
    rate: u32,
    /// Bytes of a sample of every channel.
    frame: u16,
    /// Bits of a sample that say something: the upper ones.
    bits: u16,
}

/// Where in the extensible form the tag is.
const EXTENSIBLE: u16 = 0xfffe;

impl Format {
    fn of(body: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_le_bytes(body.get(at..at + 2)?.try_into().ok()?));
        let tag = match word(0)? {
            EXTENSIBLE => word(24)?,
            tag => tag,
        };
        Some(Self {
            tag,
            channels: word(2)?,
            rate: u32::from(word(4)?) | u32::from(word(6)?) << 16,
            frame: word(12)?,
            bits: word(14)?,
        })
    }

    /// Bytes of a sample, where it is one that is read.
    fn sample(&self) -> Option<u16> {
        let sample = self.frame.checked_div(self.channels)?;
        let whole = sample * self.channels == self.frame && self.bits.div_ceil(8) == sample;
        let known = matches!((self.tag, sample), (1, 1..=4) | (3, 4 | 8));
        (whole && known && self.rate > 0).then_some(sample)
    }
}

impl<'a> Wav<'a> {
    pub(super) fn open(file: &'a Found, mut input: BufReader<File>) -> Result<Self> {
        let (format, left) =
            header(&mut input, file.bytes).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => file_is("is cut before its sound: give it whole", file),
                _ => FileError::of("read", &file.path)(error).into(),
            })?;
        let Some(format) = format else {
            return Err(file_is(
                "has a RIFF header, but says no format of sound: make it a WAV file",
                file,
            ));
        };
        if format.sample().is_none() {
            let Format {
                tag,
                channels,
                rate,
                frame,
                bits,
            } = format;
            let wrong = format!(
                "has WAV's format {tag} ({bits} bits, {channels} channels, {frame} bytes for all, {rate} Hz), \
                 which is not read: make it one of integers of 8 to 32 bits or of floats"
            );
            return Err(file_is(&wrong, file));
        }
        Ok(Self {
            file,
            input,
            format,
            left,
            bytes: Vec::new(),
        })
    }
}

fn file_is(wrong: &str, file: &Found) -> Error {
    Error::of_content(&file.path, "", format!("it {wrong}"))
}

/// Reads up to the first sample: the format, and how many bytes of sound there should be.
///
/// A length of nothing but ones, or of 0 in a file that goes on, is of one that was written as a stream.
fn header(input: &mut BufReader<File>, bytes: u64) -> io::Result<(Option<Format>, u64)> {
    let (mut riff, mut chunk) = ([0; 12], [0; 8]);
    input.read_exact(&mut riff)?;
    let length = |of: &[u8]| u32::from_le_bytes([of[4], of[5], of[6], of[7]]);
    let (mut format, mut long) = (None, u64::MAX);
    if &riff[8..] != b"WAVE" {
        return Ok((None, 0));
    }
    loop {
        input.read_exact(&mut chunk)?;
        let size = u64::from(length(&chunk));
        if &chunk[..4] == b"data" {
            let streamed = size == 0 && u64::from(length(&riff)) + 8 != bytes;
            let unknown = streamed || size == u64::from(u32::MAX);
            return Ok((format, if unknown { long } else { size }));
        }
        let mut body = Vec::new();
        if matches!(&chunk[..4], b"fmt " | b"ds64") {
            input.take(size.min(40)).read_to_end(&mut body)?;
        }
        match &chunk[..4] {
            b"fmt " => format = Format::of(&body),
            // The lengths of RF64, whose second is that of the sound.
            b"ds64" => {
                let second = body.get(8..16).and_then(|bytes| bytes.try_into().ok());
                long = second.map_or(long, u64::from_le_bytes);
            }
            _ => {}
        }
        // Chunks begin at even places.
        input.seek_relative((size + size % 2) as i64 - body.len() as i64)?;
    }
}

impl Samples for Wav<'_> {
    fn rate(&self) -> u32 {
        self.format.rate
    }

    fn next(&mut self, into: &mut Vec<f32>) -> Result<bool> {
        let frame = u64::from(self.format.frame);
        let most = (READ as u64 / frame).max(1) * frame;
        let most = most.min(self.left);
        self.bytes.clear();
        self.bytes.reserve(most.min(self.file.bytes) as usize);
        let read = self.input.by_ref().take(most).read_to_end(&mut self.bytes);
        self.left -= read.map_err(FileError::of("read", &self.file.path))? as u64;
        let channels = usize::from(self.format.channels);
        let bytes = &*self.bytes;
        match (self.format.tag, self.format.frame / self.format.channels) {
            (1, 1) => mix(bytes, channels, into, |[byte]| {
                (f64::from(byte) - 128.0) / 128.0
            }),
            (1, 2) => mix(bytes, channels, into, |[a, b]| integer([0, 0, a, b])),
            (1, 3) => mix(bytes, channels, into, |[a, b, c]| integer([0, a, b, c])),
            (1, _) => mix(bytes, channels, into, integer),
            (_, 4) => mix(bytes, channels, into, |bytes| {
                f32::from_le_bytes(bytes).into()
            }),
            _ => mix(bytes, channels, into, f64::from_le_bytes),
        }
        Ok(bytes.len() as u64 >= frame)
    }
}

/// The upper bytes of an integer of 32 bits, as a value in -1..1.
fn integer(bytes: [u8; 4]) -> f64 {
    f64::from(i32::from_le_bytes(bytes)) / 2_f64.powi(31)
}

/// Appends the means over channels of samples of `N` bytes each, clipped. A frame that was cut off is left out.
fn mix<const N: usize>(
    bytes: &[u8],
    channels: usize,
    into: &mut Vec<f32>,
    value: impl Fn([u8; N]) -> f64,
) {
    into.extend(bytes.chunks_exact(N * channels).map(|frame| {
        let sum: f64 = frame
            .as_chunks()
            .0
            .iter()
            .map(|&sample| value(sample))
            .sum();
        (sum / channels as f64).clamp(-1.0, 1.0) as f32
    }));
}
