//! The products of a panel's block with rows of x, for each kind of blocks.

use super::activations::{COLUMNS, Columns, Rows};
use super::lanes::Lanes;
use super::layout::PANEL;
use crate::quantized_linear::Blocks;

/// A kind of blocks as the products take it.
pub(super) trait Kind {
    const BLOCKS: Blocks;

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
        sums: &mut [L::Floats; R],
    );
}

/// Bytes of a vector of quants, and of a number in half precision for each row.
const QUANTS: usize = 4 * PANEL;
const HALVES: usize = 2 * PANEL;

/// The words of a column of integers.
const FOURS: usize = COLUMNS / 4;

/// sums += scale d_x ints, rounded once behind the scales.
#[inline(always)]
fn add_scaled<L: Lanes, const R: usize>(
    l: L,
    sums: &mut [L::Floats; R],
    scale: L::Floats,
    x: Columns<R>,
    ints: [L::Ints; R],
) {
    for r in 0..R {
        let scale = l.mul(scale, l.splat(x.d(r)));
        sums[r] = l.mul_add(scale, l.floats(ints[r]), sums[r]);
    }
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
        sums: &mut [L::Floats; R],
    ) {
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
        add_scaled(l, sums, d, x, ints);
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
        sums: &mut [L::Floats; R],
    ) {
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
        add_scaled(l, sums, d, x, ints);
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
        sums: &mut [L::Floats; R],
    ) {
        const SCALES: usize = 2 * HALVES;
        const FIRST: usize = SCALES + 12 * PANEL;
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
            add_scaled(l, sums, l.mul(d, l.unsigned(scale)), x, ints);
            let min = l.mul(dmin, l.unsigned(min));
            for (r, sum) in sums.iter_mut().enumerate() {
                let factor = l.splat(f32::from_bits(x.correction(0, r)));
                *sum = l.mul_add(min, factor, *sum);
            }
        }
    }
}

pub(super) struct Q6K;

impl Q6K {
    /// Row `ROW` of a half of the block: 32 columns, with two scales.
    ///
    /// # Safety
    /// As of [`Kind::add`].
    #[inline(always)]
    unsafe fn add_row<L: Lanes, const R: usize, const ROW: usize>(
        l: L,
        block: *const u8,
        half: usize,
        x: Rows<R>,
        i: usize,
        sums: &mut [L::Floats; R],
    ) {
        const SCALES: usize = HALVES;
        const LOWER: usize = SCALES + 16 * PANEL;
        const UPPER: usize = LOWER + 32 * QUANTS;
        let x = x.columns(8 * i + 4 * half + ROW);
        // SAFETY: inside the block, as the caller promises.
        let d = unsafe { l.halves(block) };
        for part in 0..2 {
            let mut ints = corrected(l, x, part);
            for i in part * FOURS / 2..(part + 1) * FOURS / 2 {
                let lower = LOWER + QUANTS * (2 * FOURS * half + ROW % 2 * FOURS + i);
                let upper = UPPER + QUANTS * (FOURS * half + i);
                // SAFETY: as above.
                let (q, upper) =
                    unsafe { (l.quants(block.add(lower)), l.quants(block.add(upper))) };
                add_dots(l, &mut ints, l.six::<ROW>(q, upper), x, i);
            }
            let scale = SCALES + PANEL * (8 * half + 2 * ROW + part);
            // SAFETY: as above.
            let scale = unsafe { block.add(scale).cast::<[u8; PANEL]>().read_unaligned() };
            add_scaled(l, sums, l.mul(d, l.signed(scale)), x, ints);
        }
    }
}

impl Kind for Q6K {
    const BLOCKS: Blocks = Blocks::Q6_K;

    #[inline(always)]
    fn correction<L: Lanes>(_: f32, sums: [i32; 2]) -> [u32; 2] {
        sums.map(|sum| (-32 * sum) as u32)
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize>(
        l: L,
        block: *const u8,
        x: Rows<R>,
        i: usize,
        sums: &mut [L::Floats; R],
    ) {
        for half in 0..2 {
            // SAFETY: as the caller promises.
            unsafe {
                Self::add_row::<L, R, 0>(l, block, half, x, i, sums);
                Self::add_row::<L, R, 1>(l, block, half, x, i, sums);
                Self::add_row::<L, R, 2>(l, block, half, x, i, sums);
                Self::add_row::<L, R, 3>(l, block, half, x, i, sums);
            }
        }
    }
}
