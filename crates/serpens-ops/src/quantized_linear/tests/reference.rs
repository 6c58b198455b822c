//! The definitions in f64: what blocks hold, value by value, and the product with the integers that x becomes.

use crate::quantized_linear::Blocks;

/// A number in half precision: (1 +) fraction / 1024 and the exponent.
fn half(block: &[u8], at: usize) -> f64 {
    let bits = u16::from_le_bytes([block[at], block[at + 1]]);
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        31 if fraction > 0.0 => f64::NAN,
        31 => f64::INFINITY,
        0 => fraction * 2_f64.powi(-24),
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// The bits `from..from + count` of bytes, the lowest of the first byte first.
fn bits(bytes: &[u8], from: usize, count: usize) -> u32 {
    (0..count)
        .map(|i| u32::from(bytes[(from + i) / 8] >> ((from + i) % 8) & 1) << i)
        .sum()
}

/// Value `i` of a block as (step, q, offset): step q - offset.
fn parts(kind: Blocks, block: &[u8], i: usize) -> (f64, f64, f64) {
    match kind {
        Blocks::Q8_0 => (half(block, 0), f64::from(block[2 + i] as i8), 0.0),
        Blocks::Q4_0 => {
            let q = bits(&block[2..], 8 * (i % 16) + 4 * (i / 16), 4);
            (half(block, 0), f64::from(q) - 8.0, 0.0)
        }
        Blocks::Q4_K => {
            let (sub, scales) = (i / 32, &block[4..16]);
            let [scale, min] = [0, 1].map(|which| match sub {
                0..4 => bits(scales, 8 * (sub + 4 * which), 6),
                // Six bits in two pieces.
                _ => {
                    let lower = bits(scales, 8 * (sub + 4) + 4 * which, 4);
                    lower | bits(scales, 8 * (sub - 4 + 4 * which) + 6, 2) << 4
                }
            });
            let q = bits(&block[16..], 8 * (sub / 2 * 32 + i % 32) + 4 * (sub % 2), 4);
            let offset = half(block, 2) * f64::from(min);
            (half(block, 0) * f64::from(scale), f64::from(q), offset)
        }
        Blocks::Q6_K => {
            let (upper_half, row, col) = (i / 128, i / 32 % 4, i % 32);
            let lower = 8 * (64 * upper_half + 32 * (row % 2) + col) + 4 * (row / 2);
            let upper = 8 * (32 * upper_half + col) + 2 * row;
            let q = bits(block, lower, 4) | bits(&block[128..], upper, 2) << 4;
            let step = half(block, 208) * f64::from(block[192 + i / 16] as i8);
            (step, f64::from(q) - 32.0, 0.0)
        }
    }
}

/// What `f` makes of (step, q, offset) of every value.
fn each(kind: Blocks, bytes: &[u8], f: impl Fn((f64, f64, f64)) -> f64) -> Vec<f64> {
    let blocks = bytes.chunks_exact(kind.bytes());
    blocks
        .flat_map(|block| (0..kind.values()).map(move |i| parts(kind, block, i)))
        .map(f)
        .collect()
}

/// The values of blocks.
pub(super) fn values(kind: Blocks, bytes: &[u8]) -> Vec<f64> {
    each(kind, bytes, |(step, q, offset)| step * q - offset)
}

/// The distance of neighbouring values that blocks could hold, for every value.
pub(super) fn steps(kind: Blocks, bytes: &[u8]) -> Vec<f64> {
    each(kind, bytes, |(step, _, _)| step)
}

/// The values that the integers of x stand for: d = max|x| / 127 for every 32 columns, in f32, and x · (127 / max|x|)
/// rounded to the nearest integer, halves to even.
pub(crate) fn rounded(x: &[f32]) -> Vec<f64> {
    let of_32 = |x: &[f32; 32]| {
        let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let d = f64::from(largest / 127.0);
        x.map(|x| match largest {
            0.0 => 0.0,
            _ => d * f64::from((x * (127.0 / largest)).round_ties_even()),
        })
    };
    x.as_chunks().0.iter().flat_map(of_32).collect()
}
