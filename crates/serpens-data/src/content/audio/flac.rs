//! FLAC.

use std::fs::File;
use std::io::BufReader;

use serpens_core::files::FileError;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as FlacError;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSourceStream, ReadOnlySource};
use symphonia::default::codecs::FlacDecoder;
use symphonia::default::formats::FlacReader;

use super::Samples;
use crate::error::{Error, Result};
use crate::files::Found;

/// An open file, read a frame of some thousand samples at a time.
pub(super) struct Flac<'a> {
    file: &'a Found,
    reader: FlacReader<'static>,
    decoder: FlacDecoder,
    rate: u32,
    /// Samples of a channel that the header promises, 0 where it does not say.
    promised: u64,
    read: u64,
    interleaved: Vec<f32>,
}

impl<'a> Flac<'a> {
    pub(super) fn open(file: &'a Found, input: BufReader<File>) -> Result<Self> {
        let wrong = |error| wrong(file, error);
        let stream =
            MediaSourceStream::new(Box::new(ReadOnlySource::new(input)), Default::default());
        let reader = FlacReader::try_new(stream, FormatOptions::default()).map_err(wrong)?;
        let track = &reader.tracks()[0]; // it is refused without one
        let parameters = track.codec_params.as_ref().and_then(|codec| codec.audio());
        let Some(parameters) = parameters else {
            return Err(wrong(FlacError::DecodeError("no parameters")));
        };
        let decoder = FlacDecoder::try_new(parameters, &AudioDecoderOptions::default());
        Ok(Self {
            file,
            decoder: decoder.map_err(wrong)?,
            rate: parameters.sample_rate.unwrap_or(0),
            promised: track.num_frames.unwrap_or(0),
            reader,
            read: 0,
            interleaved: Vec::new(),
        })
    }
}

fn wrong(file: &Found, error: FlacError) -> Error {
    match error {
        FlacError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            FileError::of("read", &file.path)(error).into()
        }
        error => {
            let wrong = format!("it is damaged or cut FLAC ({error}): give it whole");
            Error::of_content(&file.path, "", wrong)
        }
    }
}

impl Samples for Flac<'_> {
    fn rate(&self) -> u32 {
        self.rate
    }

    fn next(&mut self, into: &mut Vec<f32>) -> Result<bool> {
        let packet = self
            .reader
            .next_packet()
            .map_err(|error| wrong(self.file, error))?;
        let Some(packet) = packet else {
            if self.read < self.promised {
                return Err(wrong(
                    self.file,
                    FlacError::DecodeError("samples are missing"),
                ));
            }
            return Ok(false);
        };
        let frame = self
            .decoder
            .decode(&packet)
            .map_err(|error| wrong(self.file, error))?;
        let channels = frame.num_planes();
        self.read += frame.frames() as u64;
        frame.copy_to_vec_interleaved(&mut self.interleaved);
        let frames = self.interleaved.chunks_exact(channels.max(1));
        into.extend(frames.map(|frame| frame.iter().sum::<f32>() / channels as f32));
        Ok(true)
    }
}
