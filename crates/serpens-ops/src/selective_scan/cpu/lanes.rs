//! What forward and backward share: numbers of the state as vectors over channels, real (P = 1) or complex (P = 2), and
//! the inputs of one tile.
//!
//! The state of a tile is P·N vectors, number n with its parts at `n` and `N + n`. A number is an array of P vectors.

use serpens_core::{Mat, MatMut};

use super::plan::{CHUNK, Chunk};
use super::{Dims, Scan, ScanOperands};
use crate::simd::{Simd, load, silu, softplus};

/// One vector of channels of one group, or fewer at the group's end.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub channel: usize,
    pub width: usize,
}

impl Tile {
    /// Tile `i` of the channels `first..first + channels`.
    #[inline(always)]
    pub(super) fn new(first: usize, channels: usize, lanes: usize, i: usize) -> Self {
        Self {
            channel: first + i * lanes,
            width: lanes.min(channels - i * lanes),
        }
    }

    /// Where its numbers begin and end in a row of (channels, `size`).
    #[inline(always)]
    pub(super) fn states(self, size: usize) -> (usize, usize) {
        (self.channel * size, (self.channel + self.width) * size)
    }

    /// The tile's values in a row of channels.
    #[inline(always)]
    pub(super) fn of<S: Simd>(self, s: S, mat: Mat, row: usize) -> S::f32s {
        load(s, mat.part(row, self.channel, self.channel + self.width))
    }

    /// The tile's values of a vector over channels, zero where absent.
    #[inline(always)]
    pub(super) fn of_vector<S: Simd>(self, s: S, x: Option<Mat>) -> S::f32s {
        match x {
            Some(x) => self.of(s, x, 0),
            None => s.splat_f32s(0.0),
        }
    }

    /// The tile's rows of a (channels, `size`) matrix, transposed to `size` vectors.
    #[inline(always)]
    pub(super) fn load_states<S: Simd>(self, size: usize, from: &[f32], to: &mut [S::f32s]) {
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        let (first, end) = self.states(size);
        let from = &from[first..end];
        if self.width < S::F32_LANES {
            to[..size * S::F32_LANES].fill(0.0);
        }
        for (lane, values) in from.chunks_exact(size).enumerate() {
            for (n, &value) in values.iter().enumerate() {
                to[n * S::F32_LANES + lane] = value;
            }
        }
    }

    /// The inverse of [`Tile::load_states`], where `to` starts at the tile's first channel.
    #[inline(always)]
    pub(super) fn store_states<S: Simd>(self, size: usize, from: &[S::f32s], to: &mut [f32]) {
        let from: &[f32] = bytemuck::cast_slice(from);
        for (lane, values) in to[..self.width * size].chunks_exact_mut(size).enumerate() {
            for (n, value) in values.iter_mut().enumerate() {
                *value = from[n * S::F32_LANES + lane];
            }
        }
    }

    /// The tile's A as vectors.
    #[inline(always)]
    pub(super) fn load_a<S: Simd>(self, n: usize, x: &ScanOperands<Mat>, to: &mut [S::f32s]) {
        self.load_states::<S>(n, x.a.into_slice(), &mut to[..n]);
        if let Some(a_im) = x.a_im {
            self.load_states::<S>(n, a_im.into_slice(), &mut to[n..]);
        }
    }

    /// δ and δu of every step of a chunk, for that u where it is held; and where asked for dδ/dΔ.
    #[inline(always)]
    pub(super) fn load_steps<S: Simd>(
        self,
        s: S,
        scan: &Scan,
        chunk: &Chunk,
        delta: &mut [S::f32s; CHUNK],
        input: &mut [S::f32s; CHUNK],
        slope: Option<&mut [S::f32s; CHUNK]>,
    ) {
        let x = &scan.operands;
        let bias = self.of_vector(s, x.delta_bias);
        let mut unused = [s.splat_f32s(0.0); CHUNK];
        let slope = slope.unwrap_or(&mut unused);
        for i in 0..chunk.steps {
            let row = chunk.row(i);
            let raw = s.add_f32s(self.of(s, x.delta, row), bias);
            (delta[i], slope[i]) = if scan.softplus {
                softplus(s, raw)
            } else {
                (raw, s.splat_f32s(1.0))
            };
            let u = self.of(s, x.u, row);
            input[i] = if scan.zero_order_hold {
                u
            } else {
                s.mul_f32s(delta[i], u)
            };
        }
    }
}

/// silu(z) of the tile at `row`, one where there is no gate.
#[inline(always)]
pub(super) fn gate<S: Simd>(s: S, x: &ScanOperands<Mat>, tile: Tile, row: usize) -> S::f32s {
    match x.z {
        Some(z) => silu(s, tile.of(s, z, row)),
        None => s.splat_f32s(1.0),
    }
}

/// Asks for the rows of the next chunk of a tile: its channels of one row after another are a stride apart, which the
/// hardware does not foresee.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Address of the tile in the first row, and distance of rows.
    mats: [(*const f32, usize); MOST_MATS],
    count: usize,
    /// From a row to the one a chunk later in time.
    offset: usize,
}

/// u, Δ, z, dout and du, dΔ, dz.
const MOST_MATS: usize = 7;

impl Ahead {
    /// What `reads` and `writes` hold for `tile` a chunk of rows later, or earlier where time runs `downwards`.
    #[inline(always)]
    pub(super) fn new(
        tile: Tile,
        reads: &[Option<Mat>],
        writes: &[Option<&MatMut>],
        downwards: bool,
    ) -> Self {
        // The tile's last channel lies in the cache line that the tile before has not asked for.
        let column = tile.channel + tile.width - 1;
        let mut mats = [(std::ptr::null(), 0); MOST_MATS];
        let mut count = 0;
        for mat in reads.iter().flatten() {
            mats[count] = (mat.as_ptr().wrapping_add(column), mat.stride());
            count += 1;
        }
        for mat in writes.iter().flatten() {
            // SAFETY: only the address is used.
            let first = unsafe { mat.part(0, 0, 0) };
            mats[count] = (first.as_ptr().wrapping_add(column), mat.stride());
            count += 1;
        }
        Self {
            mats,
            count,
            offset: if downwards {
                CHUNK.wrapping_neg()
            } else {
                CHUNK
            },
        }
    }

    /// Asks for the row a chunk after `row`, which need not exist.
    #[inline(always)]
    pub(super) fn touch(&self, row: usize) {
        let row = row.wrapping_add(self.offset);
        for (first, stride) in &self.mats[..self.count] {
            prefetch(first.wrapping_add(row.wrapping_mul(*stride)));
        }
    }
}

/// Brings a cache line into the second level. Any address is allowed.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The B and C of a group, one row per position.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    b: Mat<'a>,
    c: Mat<'a>,
    column: usize,
    size: usize,
}

impl<'a> Group<'a> {
    #[inline(always)]
    pub(super) fn new(dims: &Dims, x: &ScanOperands<Mat<'a>>, group: usize) -> Self {
        let size = dims.width();
        Self {
            b: x.b,
            c: x.c,
            column: group * size,
            size,
        }
    }

    /// B at `row`, (parts, N).
    #[inline(always)]
    pub(super) fn b(&self, row: usize) -> &'a [f32] {
        self.b.part(row, self.column, self.column + self.size)
    }

    /// C at `row`, (parts, N).
    #[inline(always)]
    pub(super) fn c(&self, row: usize) -> &'a [f32] {
        self.c.part(row, self.column, self.column + self.size)
    }
}

/// `W` numbers from `n` on, of a state or a row of N numbers with P parts each.
#[inline(always)]
pub(super) fn numbers<T: Copy, const P: usize, const W: usize>(x: &[T], n: usize) -> [[T; W]; P] {
    let size = x.len() / P;
    std::array::from_fn(|part| {
        *x[part * size + n..]
            .first_chunk()
            .expect("the numbers lie within the state")
    })
}

/// Writes what [`numbers`] reads.
#[inline(always)]
pub(super) fn set_numbers<T: Copy, const P: usize, const W: usize>(
    x: &mut [T],
    n: usize,
    values: [[T; W]; P],
) {
    let size = x.len() / P;
    for (part, values) in values.iter().enumerate() {
        x[part * size + n..][..W].copy_from_slice(values);
    }
}

/// Runs `$body` for `$wide` numbers from `$n` on at a time, then for one at a time, until `$count` are done.
macro_rules! for_numbers {
    ($count:expr, $wide:expr, |$n:ident, $w:ident| $body:expr) => {{
        let count = $count;
        let mut $n = 0;
        while $n + $wide <= count {
            const $w: usize = $wide;
            $body;
            $n += $wide;
        }
        while $n < count {
            const $w: usize = 1;
            $body;
            $n += 1;
        }
    }};
}
pub(super) use for_numbers;

/// a h + x.
#[inline(always)]
pub(super) fn mul_add<S: Simd, const P: usize>(
    s: S,
    a: [S::f32s; P],
    h: [S::f32s; P],
    x: [S::f32s; P],
) -> [S::f32s; P] {
    let mut sum = x;
    sum[0] = s.mul_add_f32s(a[0], h[0], sum[0]);
    if P == 2 {
        sum[0] = s.negate_mul_add_f32s(a[1], h[1], sum[0]);
        sum[1] = s.mul_add_f32s(a[0], h[1], sum[1]);
        sum[1] = s.mul_add_f32s(a[1], h[0], sum[1]);
    }
    sum
}

/// conj(a) h.
#[inline(always)]
pub(super) fn conj_mul<S: Simd, const P: usize>(
    s: S,
    a: [S::f32s; P],
    h: [S::f32s; P],
) -> [S::f32s; P] {
    let mut product = [s.mul_f32s(a[0], h[0]); P];
    if P == 2 {
        product[0] = s.mul_add_f32s(a[1], h[1], product[0]);
        product[1] = s.negate_mul_add_f32s(a[1], h[0], s.mul_f32s(a[0], h[1]));
    }
    product
}

/// x + scale · conj(c), conj of a real number being itself.
#[inline(always)]
pub(super) fn add_conj<S: Simd, const P: usize>(
    s: S,
    x: [S::f32s; P],
    scale: S::f32s,
    c: [S::f32s; P],
) -> [S::f32s; P] {
    let mut sum = x;
    sum[0] = s.mul_add_f32s(scale, c[0], x[0]);
    if P == 2 {
        sum[1] = s.negate_mul_add_f32s(scale, c[1], x[1]);
    }
    sum
}

/// sum + Re(c h).
#[inline(always)]
pub(super) fn add_real_product<S: Simd, const P: usize>(
    s: S,
    sum: S::f32s,
    c: [S::f32s; P],
    h: [S::f32s; P],
) -> S::f32s {
    let sum = s.mul_add_f32s(c[0], h[0], sum);
    if P == 2 {
        s.negate_mul_add_f32s(c[1], h[1], sum)
    } else {
        sum
    }
}

/// One number from a row of numbers, in every lane.
#[inline(always)]
pub(super) fn splat<S: Simd, const P: usize, const W: usize>(
    s: S,
    x: &[[f32; W]; P],
    j: usize,
) -> [S::f32s; P] {
    let mut value = [s.splat_f32s(x[0][j]); P];
    if P == 2 {
        value[1] = s.splat_f32s(x[1][j]);
    }
    value
}

/// Number `j` of several.
#[inline(always)]
pub(super) fn pick<V: Copy, const P: usize, const W: usize>(x: &[[V; W]; P], j: usize) -> [V; P] {
    let mut value = [x[0][j]; P];
    if P == 2 {
        value[1] = x[1][j];
    }
    value
}

/// Writes number `j` of several.
#[inline(always)]
pub(super) fn put<V: Copy, const P: usize, const W: usize>(
    value: [V; P],
    x: &mut [[V; W]; P],
    j: usize,
) {
    for part in 0..P {
        x[part][j] = value[part];
    }
}

/// scale · x.
#[inline(always)]
pub(super) fn scaled<S: Simd, const P: usize>(
    s: S,
    scale: S::f32s,
    x: [S::f32s; P],
) -> [S::f32s; P] {
    let mut value = [s.mul_f32s(scale, x[0]); P];
    if P == 2 {
        value[1] = s.mul_f32s(scale, x[1]);
    }
    value
}
