//! Bytes that stand inside a page: sounds as WAV, images as PNG, both as base64.

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let padded = digit > three.len();
            text.push(if padded {
                '='
            } else {
                DIGITS[value as usize].into()
            });
        }
    }
    text
}

/// One channel of 16-bit samples as a WAV file (Microsoft and IBM, "Multimedia Programming Interface", 1991). Lengths
/// fit 32 bits.
pub(super) fn wav(samples: impl ExactSizeIterator<Item = i16>, rate: u32) -> Vec<u8> {
    let bytes = 2 * samples.len() as u32;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    let mut part = |name: &[u8], numbers: &[u32]| {
        file.extend(name);
        numbers
            .iter()
            .for_each(|number| file.extend(number.to_le_bytes()));
    };
    part(b"RIFF", &[36 + bytes]);
    // Sixteen bytes: PCM with one channel, two bytes a frame of 16 bits.
    let format = [
        16,
        1 | (1 << 16),
        rate,
        rate.saturating_mul(2),
        2 | (16 << 16),
    ];
    part(b"WAVEfmt ", &format);
    part(b"data", &[bytes]);
    file.extend(samples.flat_map(i16::to_le_bytes));
    file
}

/// Rows of pixels, each an index into the palette, as a PNG file without compression (W3C, "Portable Network Graphics
/// Specification", third edition). // pixels: (height, width), width ≥ 1
pub(super) fn png(pixels: &[u8], width: usize, palette: &[[u8; 3]; 256]) -> Vec<u8> {
    let height = pixels.len() / width;
    let [wide, high] = [width, height].map(|size| (size as u32).to_be_bytes());
    let header = [&wide[..], &high, &[8, 3, 0, 0, 0]].concat();
    let rows = pixels.chunks_exact(width).map(|row| [&[0], row].concat());
    let image = stored(&rows.collect::<Vec<_>>().concat());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [
        (b"IHDR", &header[..]),
        (b"PLTE", palette.as_flattened()),
        (b"IDAT", &image),
        (b"IEND", &[]),
    ] {
        let named = [&name[..], data].concat();
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(&named);
        file.extend(crc32(&named).to_be_bytes());
    }
    file
}

/// A zlib stream (RFC 1950) of stored blocks (RFC 1951).
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend([length, !length].map(u16::to_le_bytes).as_flattened());
        stream.extend(block);
    }
    let sums = bytes.iter().fold((1, 0), |(a, b): (u32, u32), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (a + b) % 65521)
    });
    stream.extend(((sums.1 << 16) | sums.0).to_be_bytes());
    stream
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320);
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), bit);
    !bytes.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_to_whole_groups() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe, 0]), "+//+AA==");
    }

    #[test]
    fn a_sound_has_the_header_of_its_rate_and_length() {
        let file = wav([1, -2, i16::MAX].into_iter(), 16_000);
        let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((&file[..4], &file[8..16]), (&b"RIFF"[..], &b"WAVEfmt "[..]));
        assert_eq!((number(4), file.len()), (36 + 6, 44 + 6));
        assert_eq!([number(16), number(24), number(28)], [16, 16_000, 32_000]);
        assert_eq!(file[20..24], [1, 0, 1, 0]);
        assert_eq!(file[32..40], [2, 0, 16, 0, b'd', b'a', b't', b'a']);
        assert_eq!(
            (number(40), &file[44..]),
            (6, &[1, 0, 254, 255, 255, 127][..])
        );
    }

    #[test]
    fn sums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert!(stored(b"Wikipedia").ends_with(&0x11e6_0398_u32.to_be_bytes()));
    }

    #[test]
    #[cfg(feature = "paper")]
    fn an_image_is_read_with_the_pixels_that_were_written() {
        let palette = std::array::from_fn(|i| [i as u8, 255 - i as u8, (i / 2) as u8]);
        // More than one stored block.
        let pixels: Vec<u8> = (0..600 * 128).map(|i| (i * 7 % 251) as u8).collect();
        let file = png(&pixels, 600, &palette);
        let read = resvg::tiny_skia::Pixmap::decode_png(&file).unwrap();
        assert_eq!((read.width(), read.height()), (600, 128));
        for (pixel, index) in read.pixels().iter().zip(&pixels) {
            let colour = [pixel.red(), pixel.green(), pixel.blue()];
            assert_eq!((colour, pixel.alpha()), (palette[usize::from(*index)], 255));
        }
    }
}
