//! The content of a file, decompressed where it is compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that are read at a time.
const ROOM: usize = 1 << 17;

/// A file up to the size that it had when it was found; an error where it ends before.
pub(crate) struct Whole {
    pub file: File,
    pub left: u64,
    /// Counts the bytes that were read.
    pub taken: Arc<AtomicU64>,
}

impl Read for Whole {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read(&mut into[..most])?;
        if got == 0 && most > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.taken.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// How a file is compressed.
pub(crate) enum Packing {
    /// As it is.
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// What a file's first bytes say of it.
    pub(crate) fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be passed over.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What a file holds.
pub(crate) fn unpack(file: Whole) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(ROOM, file);
    Ok(match Packing::of(file.fill_buf()?) {
        Packing::None => Box::new(file),
        Packing::Gzip => Box::new(BufReader::with_capacity(ROOM, MultiGzDecoder::new(file))),
        Packing::Zstd => {
            let frame = FrameDecoder::new();
            Box::new(BufReader::with_capacity(ROOM, Frames { frame, file }))
        }
    })
}

/// The frames of a zstd file, one behind the other.
struct Frames<R> {
    frame: FrameDecoder,
    file: R,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame, or passes over it; false where there is none.
    fn next(&mut self) -> io::Result<bool> {
        let told = self.frame.get_checksum_from_data();
        if told.is_some() && told != self.frame.get_calculated_checksum() {
            return Err(io::Error::other("the checksum is another"));
        }
        if self.file.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let length = match self.frame.reset(&mut self.file) {
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => u64::from(length),
            begun => return begun.map(|()| true).map_err(io::Error::other),
        };
        match io::copy(&mut self.file.by_ref().take(length), &mut io::sink())? == length {
            true => Ok(true),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.frame.can_collect() == 0 {
            if !self.frame.is_finished() {
                let block = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.frame.decode_blocks(&mut self.file, block);
                decoded.map_err(io::Error::other)?;
            } else if !self.next()? {
                return Ok(0);
            }
        }
        self.frame.read(into)
    }
}
