//! The products of a panel's block with rows of x, for each kind of blocks.

use super::activations::{COLUMNS, Columns, Rows};
use super::lanes::Lanes;
use super::layout::PANEL;
use crate::quantized_linear::Blocks;
use crate::simd::{AHEAD, prefetch};

/// A kind of blocks as the products take it.
pub(super) trait Kind {
    const BLOCKS: Blocks;
    /// Sums of integers that it keeps for each row of x at once.
    const SUMS: usize = 1;

    /// What it asks for of every [`COLUMNS`] of x besides.
    fn correction<L: Lanes>(d: f32, sums: [i32; 2]) -> [u32; 2];

    /// Adds the products of a panel's block with R rows; `i` counts the blocks.
    ///
    /// # Safety
    /// `block` is the first of a panel's block, and x has its columns.
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        sums: [L::Floats; R],
    ) -> [L::Floats; R];
}

/// Bytes of a vector of quants, and of a number in half precision for each row.
const QUANTS: usize = 4 * PANEL;
const HALVES: usize = 2 * PANEL;

/// The words of a column of integers.
const FOURS: usize = COLUMNS / 4;

/// Asks memory for as many bytes as a panel's block has, ahead of it.
#[inline(always)]
fn ask<L: Lanes, const R: usize>(block: *const u8, bytes: usize) {
    // Several rows of x give memory time.
    if L::ASKS && R == 1 {
        for line in (0..bytes).step_by(64) {
            prefetch(block.wrapping_add(AHEAD + line));
        }
    }
}

/// sums += scale d_x ints, rounded once behind the scales.
#[inline(always)]
fn add_scaled<L: Lanes, const R: usize>(
    l: L,
    mut sums: [L::Floats; R],
    scale: L::Floats,
    x: Columns<R>,
    ints: [L::Ints; R],
) -> [L::Floats; R] {
    for r in 0..R {
        let scale = l.mul(scale, l.splat(x.d(r)));
        sums[r] = l.mul_add(scale, l.floats(ints[r]), sums[r]);
    }
    sums
}

/// Sums that start with the `i`-th correction.
#[inline(always)]
fn corrected<L: Lanes, const R: usize>(l: L, x: Columns<R>, i: usize) -> [L::Ints; R] {
    let mut ints = [l.splat_int(0); R];
    for (r, ints) in ints.iter_mut().enumerate() {
        *ints = l.splat_int(x.correction(i, r) as i32);
    }
    ints
}

/// ints += q x, with the `i`-th four columns of x.
#[inline(always)]
fn add_dots<L: Lanes, const R: usize>(
    l: L,
    ints: &mut [L::Ints; R],
    q: L::Quants,
    x: Columns<R>,
    i: usize,
) {
    for (r, ints) in ints.iter_mut().enumerate() {
        *ints = l.dot(*ints, q, x.four(i, r));
    }
}

pub(super) struct Q8;

impl Kind for Q8 {
    const BLOCKS: Blocks = Blocks::Q8_0;

    /// What quants that are larger than they are add.
    #[inline(always)]
    fn correction<L: Lanes>(_: f32, [a, b]: [i32; 2]) -> [u32; 2] {
        [(-L::OFFSET * (a + b)) as u32, 0]
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        sums: [L::Floats; R],
    ) -> [L::Floats; R] {
        ask::<L, R>(block, HALVES + FOURS * QUANTS);
        let x = x.columns(i);
        let mut ints = corrected(l, x, 0);
        for i in 0..FOURS {
            // SAFETY: inside the block, as the caller promises.
            let q = unsafe { l.quants(block.add(HALVES + QUANTS * i)) };
            for (r, ints) in ints.iter_mut().enumerate() {
                *ints = l.dot_bytes(*ints, q, x.four(i, r));
            }
        }
        // SAFETY: as above.
        let d = unsafe { l.halves(block) };
        add_scaled(l, sums, d, x, ints)
    }
}

pub(super) struct Q4;

impl Kind for Q4 {
    const BLOCKS: Blocks = Blocks::Q4_0;

    #[inline(always)]
    fn correction<L: Lanes>(_: f32, [a, b]: [i32; 2]) -> [u32; 2] {
        [(-8 * (a + b)) as u32, 0]
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        sums: [L::Floats; R],
    ) -> [L::Floats; R] {
        ask::<L, R>(block, HALVES + FOURS / 2 * QUANTS);
        let x = x.columns(i);
        let mut ints = corrected(l, x, 0);
        for i in 0..FOURS / 2 {
            // SAFETY: inside the block, as the caller promises.
            let q = unsafe { l.quants(block.add(HALVES + QUANTS * i)) };
            add_dots(l, &mut ints, l.low(q), x, i);
            add_dots(l, &mut ints, l.high(q), x, FOURS / 2 + i);
        }
        // SAFETY: as above.
        let d = unsafe { l.halves(block) };
        add_scaled(l, sums, d, x, ints)
    }
}

pub(super) struct Q4K;

impl Q4K {
    /// The scales and minima of the sub-blocks, a byte for each row.
    #[inline(always)]
    fn scales_and_minima(packed: &[[u8; PANEL]; 12]) -> [[[u8; PANEL]; 2]; 8] {
        let mut all = [[[0; PANEL]; 2]; 8];
        for i in 0..4 {
            for r in 0..PANEL {
                let [a, b, c] = [packed[i][r], packed[i + 4][r], packed[i + 8][r]];
                (all[i][0][r], all[i][1][r]) = (a & 63, b & 63);
                (all[i + 4][0][r], all[i + 4][1][r]) = (c & 15 | a >> 6 << 4, c >> 4 | b >> 6 << 4);
            }
        }
        all
    }
}

impl Kind for Q4K {
    const BLOCKS: Blocks = Blocks::Q4_K;

    /// What a minimum is multiplied by.
    #[inline(always)]
    fn correction<L: Lanes>(d: f32, [a, b]: [i32; 2]) -> [u32; 2] {
        [(-d * (a + b) as f32).to_bits(), 0]
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        mut sums: [L::Floats; R],
    ) -> [L::Floats; R] {
        const SCALES: usize = 2 * HALVES;
        const FIRST: usize = SCALES + 12 * PANEL;
        ask::<L, R>(block, FIRST + 4 * FOURS * QUANTS);
        // SAFETY: inside the block, as the caller promises.
        let (d, dmin, packed) = unsafe {
            let packed = block.add(SCALES).cast::<[[u8; PANEL]; 12]>();
            (
                l.halves(block),
                l.halves(block.add(HALVES)),
                packed.read_unaligned(),
            )
        };
        for (sub, [scale, min]) in Self::scales_and_minima(&packed).into_iter().enumerate() {
            let x = x.columns(8 * i + sub);
            let mut ints = [l.splat_int(0); R];
            for i in 0..FOURS {
                let at = FIRST + QUANTS * (sub / 2 * FOURS + i);
                // SAFETY: as above.
                let q = unsafe { l.quants(block.add(at)) };
                let q = if sub % 2 == 0 { l.low(q) } else { l.high(q) };
                add_dots(l, &mut ints, q, x, i);
            }
            sums = add_scaled(l, sums, l.mul(d, l.unsigned(scale)), x, ints);
            let min = l.mul(dmin, l.unsigned(min));
            for (r, sum) in sums.iter_mut().enumerate() {
                let factor = l.splat(f32::from_bits(x.correction(0, r)));
                *sum = l.mul_add(min, factor, *sum);
            }
        }
        sums
    }
}

pub(super) struct Q6K;

impl Q6K {
    /// Four bytes of a row's lower bits, and the upper ones that go with them, for four columns of row `ROW`.
    #[inline(always)]
    fn add_row<L: Lanes, const R: usize, const ROW: usize>(
        l: L,
        ints: &mut [[L::Ints; R]; 4],
        q: [L::Quants; 3],
        x: [Columns<R>; 4],
        i: usize,
    ) {
        let q = l.six::<ROW>(q[ROW % 2], q[2]);
        add_dots(l, &mut ints[ROW], q, x[ROW], i);
    }
}

impl Kind for Q6K {
    const BLOCKS: Blocks = Blocks::Q6_K;
    // Four sums for each row of x.
    const SUMS: usize = 4;

    #[inline(always)]
    fn correction<L: Lanes>(_: f32, sums: [i32; 2]) -> [u32; 2] {
        sums.map(|sum| (-32 * sum) as u32)
    }

    /// Each half has four rows of 32 columns, whose bits lie in the same bytes; each row two scales.
    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        mut sums: [L::Floats; R],
    ) -> [L::Floats; R] {
        const FIRST: usize = HALVES + 16 * PANEL;
        // SAFETY: inside the block, as the caller promises.
        let d = unsafe { l.halves(block) };
        for part in 0..4 {
            let (half, part) = (part / 2, part % 2);
            let first = 8 * i + 4 * half;
            let x = [0, 1, 2, 3].map(|row| x.columns(first + row));
            let mut ints = x.map(|x| corrected(l, x, part));
            for i in part * FOURS / 2..(part + 1) * FOURS / 2 {
                let at = FIRST + 3 * QUANTS * (FOURS * half + i);
                // SAFETY: as above.
                let q = unsafe {
                    let q = block.add(at);
                    [
                        l.quants(q),
                        l.quants(q.add(QUANTS)),
                        l.quants(q.add(2 * QUANTS)),
                    ]
                };
                Self::add_row::<L, R, 0>(l, &mut ints, q, x, i);
                Self::add_row::<L, R, 1>(l, &mut ints, q, x, i);
                Self::add_row::<L, R, 2>(l, &mut ints, q, x, i);
                Self::add_row::<L, R, 3>(l, &mut ints, q, x, i);
            }
            for (row, ints) in ints.into_iter().enumerate() {
                let scale = HALVES + PANEL * (8 * half + 2 * row + part);
                // SAFETY: as above.
                let scale = unsafe { block.add(scale).cast::<[u8; PANEL]>().read_unaligned() };
                sums = add_scaled(l, sums, l.mul(d, l.signed(scale)), x[row], ints);
            }
        }
        sums
    }
}
