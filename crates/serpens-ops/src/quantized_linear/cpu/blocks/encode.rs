//! f32 as blocks.

use half::f16;
use rayon::prelude::*;

use super::search;
use super::{encode_q4_k::Q4K, encode_q6_k::Q6K};
use crate::quantized_linear::Blocks;

/// What writes the values of whole blocks, and says whether they can hold them all: a scale must be finite, as one
/// value that is not would spoil the others.
pub type Encoder = fn(&[f32], &mut [u8]) -> bool;

/// Values of a task of [`encode`].
const TASK: usize = 1 << 15;

/// The bytes of values in whole blocks, of so many values and bytes each, made by all threads; `None` where some cannot
/// be held.
pub fn encode(encoder: Encoder, [of_block, size]: [usize; 2], values: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; values.len() / of_block * size];
    let chunks = bytes.par_chunks_mut(TASK / of_block * size);
    let tasks = chunks.zip(values.par_chunks(TASK / of_block * of_block));
    let held = tasks.all(|(bytes, values)| encoder(values, bytes));
    held.then_some(bytes)
}

/// The encoder of a kind of blocks.
pub fn encoder(kind: Blocks) -> Encoder {
    match kind {
        Blocks::Q8_0 => |values, bytes| blocks::<34>(values, bytes, q8_0),
        Blocks::Q4_0 => |values, bytes| blocks::<18>(values, bytes, q4_0),
        Blocks::Q4_K => search::blocks::<Q4K>,
        Blocks::Q6_K => search::blocks::<Q6K>,
    }
}

/// Blocks of 32 values and `BYTES` bytes, of which the first two are the scale.
fn blocks<const BYTES: usize>(
    values: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(&[f32; 32], &mut [u8]) -> f32,
) -> bool {
    let blocks = bytes.as_chunks_mut::<BYTES>().0;
    let mut pairs = values.as_chunks().0.iter().zip(blocks);
    pairs.all(|(values, block)| {
        let (d, quants) = block.split_at_mut(2);
        let scale = f16::from_f32(encode(values, quants));
        d.copy_from_slice(&scale.to_le_bytes());
        scale.is_finite()
    })
}

/// x / d, rounded to the nearest integer, halves away from zero; d = max |x| / 127. Gives d.
fn q8_0(values: &[f32; 32], quants: &mut [u8]) -> f32 {
    let d = largest(values) / 127.0;
    let inverse = inverse(d);
    for (quant, x) in quants.iter_mut().zip(values) {
        let x = x * inverse;
        // The number before 0.5: with it, what lies just below a half is not carried over it.
        *quant = integer(x + 0.5_f32.next_down().copysign(x)) as u8;
    }
    d
}

/// x / d + 8.5 without its fraction, 15 at most; d = x / -8 of the first x of the largest magnitude. Gives d.
fn q4_0(values: &[f32; 32], quants: &mut [u8]) -> f32 {
    let largest = largest(values);
    let first = values.iter().find(|x| x.abs() == largest);
    let d = first.unwrap_or(&largest) / -8.0;
    let inverse = inverse(d);
    let quant = |x: f32| integer(x * inverse + 8.5).min(15) as u8;
    let (low, high) = values.split_at(16);
    for ((stored, &low), &high) in quants.iter_mut().zip(low).zip(high) {
        *stored = quant(low) | quant(high) << 4;
    }
    d
}

/// The largest magnitude, NaN or infinite where any is. Magnitudes are ordered as the integers with their bits, in any
/// order of which a processor may take the larger one.
fn largest(values: &[f32; 32]) -> f32 {
    let bits = values.iter().map(|x| x.abs().to_bits());
    f32::from_bits(bits.fold(0, u32::max))
}

/// What divides by d; nothing is divided by zero.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The integer without the fraction, and 0 for what is none, where d was too small to divide by.
fn integer(x: f32) -> i32 {
    if x.is_finite() { x as i32 } else { 0 }
}
