//! Blocks of sixteen sub-blocks of 16 values: x = d scale q, with q from -32 to 31.

use half::f16;

use super::search::{Searched, TURNS, VALUES, nearest, stored, sum};

/// Values of a sub-block.
const SUB: usize = 16;
/// Sub-blocks of a block.
const SUBS: usize = VALUES / SUB;
const QUANTS: [f32; 2] = [-32.0, 31.0];
const LEVELS: [f32; 2] = [-128.0, 127.0];

pub(super) struct Q6K;

impl Searched for Q6K {
    const BYTES: usize = 210;

    #[inline(always)]
    fn encode(values: &[f32; VALUES], block: &mut [u8]) -> bool {
        let subs = values.as_chunks::<SUB>().0;
        let mut ideal = [0.0; SUBS];
        for (ideal, x) in ideal.iter_mut().zip(subs) {
            *ideal = search(x);
        }
        let mut d = stored(largest(&ideal) / LEVELS[0]);
        let mut levels = ideal.map(|scale| nearest(scale / d, LEVELS));
        let mut best = (f32::INFINITY, d, levels);
        for _ in 0..TURNS {
            let mut error = 0.0;
            for (level, x) in levels.iter_mut().zip(subs) {
                error += settle(x, d, level);
            }
            if error >= best.0 {
                break;
            }
            best = (error, d, levels);
            d = refit(subs, d, &levels);
        }
        let (_, d, levels) = best;
        write(subs, d, &levels, block);
        d.is_finite()
    }
}

/// The first of the largest magnitude.
#[inline(always)]
fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    let larger = |most: f32, x: &f32| if x.abs() > most.abs() { *x } else { most };
    x.iter().fold(0.0, larger)
}

/// The nearest quants.
#[inline(always)]
fn quants(x: &[f32; SUB], scale: f32) -> [f32; SUB] {
    let (mut quants, inverse) = ([0.0; SUB], 1.0 / scale);
    for (quant, x) in quants.iter_mut().zip(x) {
        *quant = nearest(x * inverse, QUANTS);
    }
    quants
}

/// Σ (x - scale q)² with the nearest quants.
#[inline(always)]
fn error(x: &[f32; SUB], scale: f32) -> f32 {
    let q = quants(x, scale);
    sum::<SUB>(|i| {
        let off = x[i] - scale * q[i];
        off * off
    })
}

/// The scale of a sub-block by itself, of either sign: one side has a quant more.
#[inline(always)]
fn search(x: &[f32; SUB]) -> f32 {
    let top = largest(x);
    let mut best = (error(x, 0.0), 0.0);
    for end in QUANTS {
        for tenths in -9..=9 {
            let q = quants(x, top / (end + 0.1 * tenths as f32));
            let squares = sum::<SUB>(|i| q[i] * q[i]).max(1.0);
            let scale = sum::<SUB>(|i| x[i] * q[i]) / squares;
            let error = error(x, scale);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

/// The best level within one step of this one, and the error.
#[inline(always)]
fn settle(x: &[f32; SUB], d: f32, level: &mut f32) -> f32 {
    let (mut best, near) = (f32::INFINITY, *level);
    for step in [0.0, -1.0, 1.0] {
        let tried = nearest(near + step, LEVELS);
        let error = error(x, d * tried);
        if error < best {
            (best, *level) = (error, tried);
        }
    }
    best
}

/// d with the smallest error for the quants of these levels.
#[inline(always)]
fn refit(subs: &[[f32; SUB]], d: f32, levels: &[f32; SUBS]) -> f32 {
    let [mut uu, mut xu] = [0.0; 2];
    for (x, level) in subs.iter().zip(levels) {
        let q = quants(x, d * level);
        uu += level * level * sum::<SUB>(|i| q[i] * q[i]);
        xu += level * sum::<SUB>(|i| x[i] * q[i]);
    }
    stored(xu / uu.max(1.0))
}

#[inline(always)]
fn write(subs: &[[f32; SUB]], d: f32, levels: &[f32; SUBS], block: &mut [u8]) {
    let (quants_low, rest) = block.split_at_mut(128);
    let (quants_high, rest) = rest.split_at_mut(64);
    let (scales, stored_d) = rest.split_at_mut(SUBS);
    stored_d.copy_from_slice(&f16::from_f32(d).to_le_bytes());
    quants_low.fill(0);
    quants_high.fill(0);
    for (i, (x, level)) in subs.iter().zip(levels).enumerate() {
        scales[i] = *level as i8 as u8;
        let (half, row, column) = (i / 8, i / 2 % 4, i % 2 * SUB);
        let low = &mut quants_low[64 * half + row % 2 * 32 + column..];
        let high = &mut quants_high[32 * half + column..];
        for ((low, high), q) in low.iter_mut().zip(high).zip(quants(x, d * level)) {
            let q = (q - QUANTS[0]) as u8;
            *low |= (q & 15) << (row / 2 * 4);
            *high |= q >> 4 << (2 * row);
        }
    }
}
