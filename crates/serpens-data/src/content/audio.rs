//! Sound: WAV and FLAC.

mod flac;
mod mu_law;
mod resample;
#[cfg(test)]
mod tests;
mod wav;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use hound::{SampleFormat, WavSpec, WavWriter};
use serde::{Deserialize, Serialize};
use serpens_core::files::{FileError, write_atomically};
use smart_default::SmartDefault;

pub use mu_law::{from_mu_law, mu_law};

use self::flac::Flac;
use self::resample::Resampler;
use self::wav::Wav;
use super::{Block, Read, Take};
use crate::error::{Error, Result};
use crate::files::Found;
use crate::spectrum::{BANDS, Mel};

/// What a sample is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AudioForm {
    /// One of the 256 levels of μ-law, as a byte of text.
    #[default]
    MuLaw,
    /// A value in -1..=1.
    Values,
    /// Not samples but frames of 25 ms or somewhat more, half a frame apart: the log power in each of 32 bands, evenly
    /// spaced in mel, as decibels / 30 + 2.
    Mel,
}

/// How sound is read: channels are averaged, and what lies beyond -1..=1 (of files of floats) is clipped.
///
/// WAV files hold integers of 8 to 32 bits or floats of 32 or 64, also as RF64; where their header's length is not that
/// of the sound (0, or more than there is), what is there is read. FLAC files must be whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct AudioConfig {
    /// Samples of a second; files of other rates are resampled (band-limited, n samples to round(n · rate / theirs)).
    #[default = 8000]
    pub rate: u32,
    /// What a sample is read as.
    pub form: AudioForm,
}

/// Bytes that are read at a time.
const READ: usize = 1 << 18;
/// Samples of a block: 1 MiB of values.
const BLOCK: usize = 1 << 18;
/// The most samples that are written: 4 GiB, less a header.
const MOST: usize = (1 << 31) - 64;

/// Samples in their order, channels averaged, in -1..=1 or NaN.
trait Samples {
    /// How many a second has.
    fn rate(&self) -> u32;

    /// Appends the next ones; whether there were any.
    fn next(&mut self, into: &mut Vec<f32>) -> Result<bool>;
}

pub(super) fn read<E: From<Error>>(
    config: &AudioConfig,
    file: &Found,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let wrong = |place: String, wrong: String| Error::of_content(&file.path, place, wrong);
    let mut input = open(file)?;
    let (from, to) = (input.rate(), config.rate);
    let mut resampler = Resampler::new(from, to).ok_or_else(|| {
        let far = "which is too far to resample: set another rate, or convert the file";
        wrong(
            String::new(),
            format!("it has {from} Hz and the rate is {to}, {far}"),
        )
    })?;
    let mut mel = Mel::new(config.rate);
    let (mut raw, mut samples, mut begins, mut at) = (Vec::new(), Vec::new(), true, 0);
    let mut put = |samples: Vec<f32>, ends| {
        let read = match config.form {
            AudioForm::MuLaw => Read::Text(samples.into_iter().map(mu_law).collect()),
            AudioForm::Values => Read::Values {
                values: samples,
                channels: 1,
            },
            AudioForm::Mel => Read::Values {
                values: mel.next(&samples, ends),
                channels: BANDS,
            },
        };
        let begins = std::mem::take(&mut begins);
        take(Block::new(String::new(), read, begins, ends))
    };
    while input.next(&mut raw)? {
        if let Some(here) = raw.iter().position(|sample| sample.is_nan()) {
            let place = format!(", sample {}", at + here);
            return Err(wrong(place, "it is no number (NaN): make the file anew".into()).into());
        }
        at += raw.len();
        resampler.put(&raw, &mut samples);
        raw.clear();
        while samples.len() > BLOCK {
            let later = samples.split_off(BLOCK);
            put(std::mem::replace(&mut samples, later), false)?;
        }
    }
    resampler.finish(&mut samples);
    if samples.is_empty() {
        let nothing = format!("it holds no sound ({at} samples at {from} Hz): leave it out");
        return Err(wrong(String::new(), nothing).into());
    }
    put(samples, true)
}

/// Opens a file as what its first bytes say it is.
fn open(file: &Found) -> Result<Box<dyn Samples + '_>> {
    let unreadable = FileError::of("read", &file.path);
    let input = File::open(&file.path).map_err(&unreadable)?;
    let mut input = BufReader::new(input);
    let start = input.fill_buf().map_err(&unreadable)?;
    match start.first_chunk::<4>() {
        Some(b"RIFF" | b"RF64") => Ok(Box::new(Wav::open(file, input)?)),
        Some(b"fLaC") => Ok(Box::new(Flac::open(file, input)?)),
        _ => {
            let wrong = "it is neither WAV nor FLAC: convert it to one of them, or leave it out";
            Err(Error::of_content(&file.path, "", wrong))
        }
    }
}

/// Writes samples in -1..=1 (others are clipped) as a WAV file of one channel and 16 bits.
///
/// # Errors
/// Those of the system, and where samples or rate are more than WAV has: the file is as it was then.
pub fn write_wav(path: &Path, samples: &[f32], rate: u32) -> Result<()> {
    let spec = WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    if samples.len() > MOST || rate > i32::MAX as u32 {
        let sound = format!(
            "{} samples at {rate} Hz are more than WAV has",
            samples.len()
        );
        return Err(FileError::of("write", path)(io::Error::other(sound)).into());
    }
    let failed = |error| match error {
        hound::Error::IoError(error) => FileError::of("write", path)(error),
        error => FileError::of("write", path)(io::Error::other(error)),
    };
    write_atomically(path, |file| {
        let mut writer = WavWriter::new(file, spec).map_err(failed)?;
        for sample in samples {
            let sample = (sample * 32768.0).round() as i16;
            writer.write_sample(sample).map_err(failed)?;
        }
        Ok(writer.finalize().map_err(failed)?)
    })
}
