//! Images as sequences of patches: PNG, JPEG, IDX.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Cursor, ErrorKind, Read as _};
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageReader};
use serde::{Deserialize, Serialize};
use serpens_core::files::{FileError, read as read_most};
use smart_default::SmartDefault;

use super::{Block, Read, Take};
use crate::error::{Error, Result, joined};
use crate::files::{Found, open};

/// What a pixel is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colours {
    /// Its brightness: 0.2126 R + 0.7152 G + 0.0722 B (ITU-R BT.709).
    #[default]
    Grey,
    /// Red, green and blue.
    Rgb,
}

/// How images are read: patches row by row, in each its pixels row by row, of each its colours; a value v of 0..=255 is
/// v/127.5 - 1. Transparency is left out.
///
/// PNG and JPEG files are a record each; an IDX file (as MNIST has them) has one of each of its images, called by its
/// number from 0 on. Patches must tile an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// Pixels of a side of a patch, which is a position of the sequence.
    #[default = 4]
    pub patch: usize,
    /// What a pixel is read as.
    pub colours: Colours,
    /// Width and height that images are brought to (bilinear, over all pixels that a new one covers); without them
    /// they stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
}

/// The most pixels of an image.
const MOST_PIXELS: usize = 1 << 26;
/// The most bytes of an image's file.
const MOST_BYTES: u64 = 256 << 20;
/// Values of a block, about: 1 MiB.
const BLOCK: usize = 1 << 18;
/// How IDX files of bytes begin: of three dimensions, and of one.
const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];

pub(super) fn read<E: From<Error>>(
    config: &ImageConfig,
    file: &Found,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let path = &*file.path;
    let mut input = open(path)?;
    let start = input
        .fill_buf()
        .map_err(FileError::of("read", path))
        .map_err(Error::from)?;
    match start.first_chunk() {
        Some(&IMAGES) => {}
        Some(&LABELS) => {
            let wrong = "it holds labels, no images: give it as the labels of a file of images";
            return Err(Error::of_content(path, "", wrong).into());
        }
        _ => return patches(config, path, String::new(), decode(path, input)?, take),
    }
    let [count, rows, columns] = idx_header(path, &mut *input)?;
    let (height, width) = (rows as usize, columns as usize);
    if height.saturating_mul(width) > MOST_PIXELS {
        let wrong = format!("its images have {width}×{height} pixels, more than are read (2^26)");
        return Err(Error::of_content(path, "", wrong).into());
    }
    for index in 0..count {
        let mut pixels = vec![0; height * width];
        input
            .read_exact(&mut pixels)
            .map_err(|error| idx_cut(path, error))?;
        let image = GrayImage::from_raw(columns, rows, pixels).expect("a pixel of each place");
        patches(config, path, index.to_string(), image.into(), take)?;
    }
    Ok(())
}

/// The image that a PNG or JPEG file holds.
fn decode(path: &Path, input: impl io::Read) -> Result<DynamicImage> {
    let bytes = read_most(input, MOST_BYTES).map_err(FileError::of("read", path))?;
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(4 * MOST_PIXELS as u64);
    reader.limits(limits);
    let reader = reader
        .with_guessed_format()
        .map_err(FileError::of("read", path))?;
    reader.decode().map_err(|error| {
        let why = joined(&error.to_string());
        let wrong =
            format!("it is no image that can be read ({why}): make it PNG, or leave it out");
        Error::of_content(path, "", wrong)
    })
}

/// Hands on an image as a record of this name.
fn patches<E: From<Error>>(
    config: &ImageConfig,
    path: &Path,
    name: String,
    mut image: DynamicImage,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let side = config.patch;
    image = match config.colours {
        Colours::Grey => image.into_luma8().into(),
        Colours::Rgb => image.into_rgb8().into(),
    };
    let (width, height) = match config.size {
        Some([width, height]) => (width, height),
        None => (image.width(), image.height()),
    };
    let tiled = |length: u32| length > 0 && (length as usize).is_multiple_of(side);
    let fits = width as usize * height as usize <= MOST_PIXELS;
    if side == 0 || !tiled(width) || !tiled(height) || !fits {
        let place = if name.is_empty() {
            name
        } else {
            format!(", image {name}")
        };
        let wrong = format!(
            "patches of {side}×{side} pixels do not tile the {width}×{height} of an image (of at most 2^26): \
             set `size` to multiples of `patch`"
        );
        return Err(Error::of_content(path, place, wrong).into());
    }
    if (width, height) != (image.width(), image.height()) {
        image = image.resize_exact(width, height, FilterType::Triangle);
    }
    let colours = usize::from(image.color().channel_count());
    let (row, pixels) = (width as usize * colours, image.as_bytes());
    let channels = side * side * colours;
    let (mut values, mut begins) = (Vec::new(), true);
    let bands = pixels.chunks_exact(row * side);
    let last = bands.len() - 1;
    for (index, band) in bands.enumerate() {
        for left in (0..row).step_by(side * colours) {
            let patch = band
                .chunks_exact(row)
                .flat_map(|line| &line[left..left + side * colours]);
            values.extend(patch.map(|&value| f32::from(value) / 127.5 - 1.0));
        }
        if index == last || values.len() >= BLOCK {
            let read = Read::Values {
                values: std::mem::take(&mut values),
                channels,
            };
            let (name, ends) = (name.clone(), index == last);
            take(Block::new(name, read, begins, ends))?;
            begins = false;
        }
    }
    Ok(())
}

/// The labels of an IDX file, plain or compressed with gzip, as those of MNIST are: one for each image. // (count)
///
/// # Errors
/// Those of the system, and of a file that is no IDX file of labels, or a cut one.
pub fn idx_labels(path: &Path) -> Result<Vec<u32>> {
    let mut input = open(path)?;
    let start = input.fill_buf().map_err(FileError::of("read", path))?;
    if !start.starts_with(&LABELS) {
        let wrong = "it is no IDX file of labels (which begins with 00 00 08 01): give one";
        return Err(Error::of_content(path, "", wrong));
    }
    let [count] = idx_header(path, &mut *input)?;
    let mut labels = Vec::new();
    let read = input.take(count.into()).read_to_end(&mut labels);
    read.map_err(|error| idx_cut(path, error))?;
    match labels.len() < count as usize {
        true => Err(idx_cut(path, ErrorKind::UnexpectedEof.into())),
        false => Ok(labels.into_iter().map(u32::from).collect()),
    }
}

/// The sizes of an IDX file's dimensions, which follow its first four bytes.
fn idx_header<const N: usize>(path: &Path, input: &mut dyn BufRead) -> Result<[u32; N]> {
    let (mut magic, mut sizes) = ([0; 4], [[0; 4]; N]);
    let read = input.read_exact(&mut magic);
    let read = read.and_then(|()| input.read_exact(sizes.as_flattened_mut()));
    read.map_err(|error| idx_cut(path, error))?;
    Ok(sizes.map(u32::from_be_bytes))
}

fn idx_cut(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            let wrong = "it ends before what its header promises: give it whole";
            Error::of_content(path, "", wrong)
        }
        _ => FileError::of("read", path)(error).into(),
    }
}
