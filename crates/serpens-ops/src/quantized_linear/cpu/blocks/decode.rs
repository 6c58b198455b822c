//! Blocks as f32.

use half::f16;

use crate::quantized_linear::Blocks;

/// What reads the values of whole blocks.
pub type Decoder = fn(&[u8], &mut [f32]);

/// The decoder of a kind of blocks.
pub fn decoder(kind: Blocks) -> Decoder {
    match kind {
        Blocks::Q8_0 => |bytes, values| blocks(bytes, values, q8_0),
        Blocks::Q4_0 => |bytes, values| blocks(bytes, values, q4_0),
        Blocks::Q4_K => |bytes, values| blocks(bytes, values, q4_k),
        Blocks::Q6_K => |bytes, values| blocks(bytes, values, q6_k),
    }
}

/// Blocks of `BYTES` bytes and `VALUES` values.
fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (block, values) in bytes.as_chunks().0.iter().zip(values.as_chunks_mut().0) {
        decode(block, values);
    }
}

/// The scale that stands at a place of a block.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (value, &q) in values.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q as i8);
    }
}

/// Low nibbles are the first half, high ones the second.
fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = scale(block, 0);
    let (low, high) = values.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * f32::from((q & 15) as i8 - 8);
        *high = d * f32::from((q >> 4) as i8 - 8);
    }
}

/// Each 32 bytes hold two sub-blocks, the first in their low nibbles.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, dmin, scales) = (scale(block, 0), scale(block, 2), &block[4..16]);
    for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (factor, min) = scale_and_min(scales, i);
        let (d, min, shift) = (d * factor, dmin * min, i % 2 * 4);
        for (value, &q) in values.iter_mut().zip(&block[16 + i / 2 * 32..]) {
            *value = d * f32::from(q >> shift & 15) - min;
        }
    }
}

/// Six bits each: those of the last four sub-blocks have their upper two bits with those of the first four.
fn scale_and_min(scales: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i.checked_sub(4) {
        None => (scales[i] & 63, scales[i + 4] & 63),
        Some(first) => (
            scales[i + 4] & 15 | scales[first] >> 6 << 4,
            scales[i + 4] >> 4 | scales[i] >> 6 << 4,
        ),
    };
    (scale.into(), min.into())
}

/// Each half has four rows of 32 values: the low nibbles of two rows, the high nibbles of the same bytes, and the upper
/// two bits of all four rows in the same 32 bytes.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208);
    for (i, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, row, column) = (i / 8, i / 2 % 4, i % 2 * 16);
        let low = &low[64 * half + row % 2 * 32 + column..];
        let high = &high[32 * half + column..];
        let d = d * f32::from(scales[i] as i8);
        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
            let q = (low >> (row / 2 * 4) & 15) | (high >> (2 * row) & 3) << 4;
            *value = d * f32::from(q as i8 - 32);
        }
    }
}
