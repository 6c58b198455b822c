//! Blocks of eight sub-blocks of 32 values: x = d scale q - dmin min.

use half::f16;

use super::search::{Searched, TURNS, VALUES, nearest, stored, sum};

/// Values of a sub-block.
const SUB: usize = 32;
/// Sub-blocks of a block.
const SUBS: usize = VALUES / SUB;
const QUANTS: [f32; 2] = [0.0, 15.0];
const LEVELS: [f32; 2] = [0.0, 63.0];

/// The scale and the minimum of a sub-block: x = scale q - min; of a block: d and dmin.
type Pair = [f32; 2];

pub(super) struct Q4K;

impl Searched for Q4K {
    const BYTES: usize = 144;

    #[inline(always)]
    fn encode(values: &[f32; VALUES], block: &mut [u8]) -> bool {
        let subs = values.as_chunks::<SUB>().0;
        let mut ideal = [[0.0; 2]; SUBS];
        for (ideal, x) in ideal.iter_mut().zip(subs) {
            *ideal = search(x);
        }
        let most = |of: usize| ideal.iter().fold(0.0, |most: f32, pair| most.max(pair[of]));
        let mut d = [0, 1].map(|of| stored(most(of) / LEVELS[1]));
        let mut levels = ideal.map(|pair| [0, 1].map(|of| nearest(pair[of] / d[of], LEVELS)));
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
        d.iter().all(|d| d.is_finite())
    }
}

/// The nearest quants.
#[inline(always)]
fn quants(x: &[f32; SUB], [scale, min]: Pair) -> [f32; SUB] {
    let (mut quants, inverse) = ([0.0; SUB], 1.0 / scale);
    for (quant, x) in quants.iter_mut().zip(x) {
        *quant = nearest((x + min) * inverse, QUANTS);
    }
    quants
}

/// Σ (x - scale q + min)² with the nearest quants.
#[inline(always)]
fn error(x: &[f32; SUB], pair: Pair) -> f32 {
    let (q, [scale, min]) = (quants(x, pair), pair);
    sum::<SUB>(|i| {
        let off = x[i] + min - scale * q[i];
        off * off
    })
}

/// Scale and minimum, which is not negative, with the smallest error for these quants.
#[inline(always)]
fn fit(x: &[f32; SUB], q: &[f32; SUB]) -> Pair {
    let n = SUB as f32;
    let (sum_q, sum_x) = (sum::<SUB>(|i| q[i]), sum::<SUB>(|i| x[i]));
    let (sum_qq, sum_xq) = (sum::<SUB>(|i| q[i] * q[i]), sum::<SUB>(|i| x[i] * q[i]));
    let determinant = n * sum_qq - sum_q * sum_q;
    let min = (sum_q * sum_xq - sum_qq * sum_x) / determinant;
    match min > 0.0 {
        true => [(n * sum_xq - sum_x * sum_q) / determinant, min],
        false => [sum_xq / sum_qq.max(1.0), 0.0],
    }
}

/// Scale and minimum of a sub-block by itself.
#[inline(always)]
fn search(x: &[f32; SUB]) -> Pair {
    let least = x.iter().fold(0.0, |least: f32, x| least.min(*x));
    let most = x.iter().fold(least, |most: f32, x| most.max(*x));
    let mut best = (error(x, [0.0, -least]), [0.0, -least]);
    for tenths in -10..=10 {
        let scale = (most - least) / (QUANTS[1] + 0.1 * tenths as f32);
        let pair = fit(x, &quants(x, [scale, -least]));
        let error = error(x, pair);
        if error < best.0 {
            best = (error, pair);
        }
    }
    best.1
}

/// The best levels within one step of these, and the error.
#[inline(always)]
fn settle(x: &[f32; SUB], [d, dmin]: Pair, level: &mut Pair) -> f32 {
    let (mut best, near) = (f32::INFINITY, *level);
    for step in 0..9 {
        let [scale, min] = [step / 3, step % 3].map(|step| step as f32 - 1.0);
        let tried = [near[0] + scale, near[1] + min].map(|level| nearest(level, LEVELS));
        let error = error(x, [d * tried[0], dmin * tried[1]]);
        if error < best {
            (best, *level) = (error, tried);
        }
    }
    best
}

/// d and dmin with the smallest error for the quants of these levels: those of x = d u - dmin v with u = scale q, v =
/// min.
#[inline(always)]
fn refit(subs: &[[f32; SUB]], [d, dmin]: Pair, levels: &[Pair; SUBS]) -> Pair {
    let [mut uu, mut uv, mut vv, mut xu, mut xv] = [0.0; 5];
    for (x, [scale, min]) in subs.iter().zip(levels) {
        let q = quants(x, [d * scale, dmin * min]);
        let (sum_q, sum_x) = (sum::<SUB>(|i| q[i]), sum::<SUB>(|i| x[i]));
        uu += scale * scale * sum::<SUB>(|i| q[i] * q[i]);
        uv += scale * min * sum_q;
        vv += min * min * SUB as f32;
        xu += scale * sum::<SUB>(|i| x[i] * q[i]);
        xv += min * sum_x;
    }
    let determinant = uu * vv - uv * uv;
    let both = [
        (xu * vv - xv * uv) / determinant,
        (xu * uv - xv * uu) / determinant,
    ];
    match both.iter().all(|d| *d > 0.0 && d.is_finite()) {
        true => both.map(stored),
        false => [stored(xu / uu.max(1.0)), dmin],
    }
}

#[inline(always)]
fn write(subs: &[[f32; SUB]], d: Pair, levels: &[Pair; SUBS], block: &mut [u8]) {
    let (head, stored_quants) = block.split_at_mut(16);
    let (scales, packed) = head.split_at_mut(4);
    for (bytes, d) in scales.as_chunks_mut().0.iter_mut().zip(d) {
        *bytes = f16::from_f32(d).to_le_bytes();
    }
    packed.fill(0);
    for (i, (x, level)) in subs.iter().zip(levels).enumerate() {
        let [scale, min] = level.map(|level| level as u8);
        match i.checked_sub(4) {
            None => {
                packed[i] |= scale;
                packed[i + 4] |= min;
            }
            Some(first) => {
                packed[i + 4] = scale & 15 | min << 4;
                packed[first] |= scale >> 4 << 6;
                packed[i] |= min >> 4 << 6;
            }
        }
        let q = quants(x, [d[0] * level[0], d[1] * level[1]]);
        let row = &mut stored_quants[i / 2 * SUB..][..SUB];
        for (byte, q) in row.iter_mut().zip(q) {
            *byte = match i % 2 {
                0 => q as u8,
                _ => *byte | (q as u8) << 4,
            };
        }
    }
}
