//! Values between f32 and what files store: as NumPy rounds them, in loops over whole slices.

#[cfg(test)]
mod tests;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serpens_core::bf16;
use serpens_ops::quantized_linear::cpu::blocks::{self, Decoder, Encoder};

use crate::Encoding;

/// The decoder of an encoding of floating-point numbers.
pub(crate) fn decoder(encoding: Encoding) -> Option<Decoder> {
    Some(match encoding {
        Encoding::F32 => |bytes, values| decode_each(bytes, values, f32::from_le_bytes),
        Encoding::F64 => {
            |bytes, values| decode_each(bytes, values, |b| f64::from_le_bytes(b) as f32)
        }
        Encoding::BF16 => {
            |bytes, values| decode_each(bytes, values, |b| bf16::from_le_bytes(b).to_f32())
        }
        Encoding::F16 => decode_halves,
        Encoding::Blocks(kind) => blocks::decoder(kind),
        Encoding::U32 | Encoding::Other(_) => return None,
    })
}

/// Values that stand alone, of `N` bytes each.
pub(crate) fn decode_each<const N: usize, T>(
    bytes: &[u8],
    values: &mut [T],
    decode: impl Fn([u8; N]) -> T,
) {
    for (value, &stored) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = decode(stored);
    }
}

/// Many at a time, for which processors have instructions.
fn decode_halves(bytes: &[u8], values: &mut [f32]) {
    let mut stored = [f16::ZERO; 64];
    for (bytes, values) in bytes.chunks(128).zip(values.chunks_mut(64)) {
        let stored = &mut stored[..values.len()];
        decode_each(bytes, stored, f16::from_le_bytes);
        stored.convert_to_f32_slice(values);
    }
}

/// The encoder of an encoding that is written; what is finite must stay so.
pub(crate) fn encoder(encoding: Encoding) -> Option<Encoder> {
    Some(match encoding {
        Encoding::F16 => |values, bytes| {
            let finite = |b| f16::from_le_bytes(b).is_finite();
            encode_each(values, bytes, |x| f16::from_f32(x).to_le_bytes(), finite)
        },
        Encoding::BF16 => |values, bytes| {
            let finite = |b| bf16::from_le_bytes(b).is_finite();
            encode_each(values, bytes, |x| bf16::from_f32(x).to_le_bytes(), finite)
        },
        Encoding::Blocks(kind) => blocks::encoder(kind),
        _ => return None,
    })
}

/// The bytes of values in whole blocks, worked on by all threads; `None` where some cannot be held.
pub(crate) fn encode(encoding: Encoding, encode: Encoder, values: &[f32]) -> Option<Vec<u8>> {
    blocks::encode(encode, encoding.block().into(), values)
}

/// Values that stand alone, of `N` bytes each.
fn encode_each<const N: usize>(
    values: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(f32) -> [u8; N],
    finite: impl Fn([u8; N]) -> bool,
) -> bool {
    let pairs = values.iter().zip(bytes.as_chunks_mut().0);
    pairs.fold(true, |held, (&value, stored)| {
        *stored = encode(value);
        held & (finite(*stored) | !value.is_finite())
    })
}
