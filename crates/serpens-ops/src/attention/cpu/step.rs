//! One token of many sequences: threads over parts of what each has read, whose rows lie one behind the other in its
//! caches, and lanes over the columns of a head.

use std::ops::Range;

use serpens_core::{Mat, MatMut};

use super::super::step::StepDims;
use super::{Exponentials, largest};
use crate::rope::cpu::{fill_frequencies, turn_head};
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use crate::simd::{self, Simd, WithSimd, load, store};

/// Tokens of a part, and those whose rows are walked together.
const TOKENS: usize = 128;
const TOGETHER: usize = 4;

/// A step as the kernels of the processor take it.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The sizes.
    pub dims: StepDims,
    /// q, k and v of each slot's token: (slots, heads · head), and twice (slots, kv_heads · head).
    pub token: [Mat<'a>; 3],
    /// (slots, 2): tokens read before, and what is a GPU's alone.
    pub read: Mat<'a, u32>,
    /// What dot products are multiplied by.
    pub scale: f32,
    /// The base of the angles that q and k are turned by.
    pub rope: Option<f32>,
}

impl Step<'_> {
    fn check(&self, k: &MatMut, v: &MatMut, o: &MatMut) {
        let (dims, shape) = (&self.dims, |mat: &MatMut| [mat.rows(), mat.cols()]);
        let widths = [dims.heads, dims.kv_heads, dims.kv_heads].map(|heads| heads * dims.head);
        assert!(dims.heads.is_multiple_of(dims.kv_heads), "heads");
        assert!((1..=dims.capacity).contains(&dims.window), "window");
        for (rows, width) in self.token.iter().zip(widths) {
            assert_eq!(
                [rows.rows(), rows.cols()],
                [dims.slots, width],
                "q, k and v"
            );
        }
        assert_eq!(
            [self.read.rows(), self.read.cols()],
            [dims.slots, 2],
            "read"
        );
        let cached = [dims.slots, dims.capacity * dims.kv_width()];
        assert_eq!([shape(k), shape(v)], [cached; 2], "caches");
        assert_eq!(shape(o), [dims.slots, dims.heads * dims.head], "o");
    }

    /// Tokens that a slot has read before.
    fn before(&self, slot: usize) -> u32 {
        self.read.row(slot)[0]
    }

    /// Tokens that a slot's query sees.
    fn seen(&self, slot: usize) -> usize {
        self.dims.window.min(self.before(slot) as usize + 1)
    }

    /// The place of the oldest of them in the ring.
    fn first_place(&self, slot: usize) -> usize {
        (self.before(slot) as usize + 1 - self.seen(slot)) % self.dims.capacity
    }

    /// Columns of the place of a token in the ring.
    fn columns(&self, place: usize) -> [usize; 2] {
        let width = self.dims.kv_width();
        let place = place % self.dims.capacity;
        [place * width, (place + 1) * width]
    }
}

/// Writes each slot's key and value into the caches, (slots, capacity · kv_heads · head), and what its query finds to
/// `o`. See [`super::super::step()`].
///
/// # Panics
/// If the shapes disagree.
pub fn step(step: &Step, k: MatMut, v: MatMut, o: MatMut) {
    step.check(&k, &v, &o);
    let (dims, width) = (step.dims, o.cols());
    let parts_of = |slot| step.seen(slot).div_ceil(TOKENS);
    let parts = (0..dims.slots).map(parts_of).max().unwrap_or(0);
    // Of each part what every head finds, the largest of its dot products and the sum of exponentials.
    let of_part = width + 2 * dims.heads;
    with_scratch(dims.slots * (width + parts * of_part), |scratch| {
        let (queries, found) = scratch.split_at_mut(dims.slots * width);
        enter(step, MatMut::dense(queries, width), &k, &v);
        let queries = Mat::dense(queries, width);
        let rows = dims.slots * parts;
        let to = MatMut::new(found, rows, of_part, of_part, 0);
        let values = rows * TOKENS * 2 * dims.kv_width();
        for_each_task(values, rows, |task| {
            let (slot, part) = (task / parts, task % parts);
            let first = part * TOKENS;
            let count = step.seen(slot).saturating_sub(first).min(TOKENS);
            if count == 0 {
                return;
            }
            // SAFETY: each task has its own part.
            let found = unsafe { to.part(task, 0, of_part) };
            with_scratch(dims.heads * TOKENS, |weights| {
                simd::dispatch(Part {
                    step,
                    q: queries.row(slot),
                    caches: [&k, &v],
                    slot,
                    place: step.first_place(slot) + first,
                    count,
                    weights,
                    found,
                });
            });
        });
        let found = Mat::new(found, rows, of_part, of_part, 0);
        for_each_task(rows * width, dims.slots * dims.heads, |task| {
            let (slot, h) = (task / dims.heads, task % dims.heads);
            let parts = slot * parts..slot * parts + parts_of(slot);
            // SAFETY: each task has its own head of a slot.
            let o = unsafe { o.part(slot, h * dims.head, (h + 1) * dims.head) };
            combine(parts.map(|part| found.row(part)), h, width, o);
        });
    });
}

/// What a head finds in all parts together.
fn combine<'a>(
    parts: impl Iterator<Item = &'a [f32]> + Clone,
    h: usize,
    width: usize,
    o: &mut [f32],
) {
    let heads = |part: &'a [f32]| part[width..].split_at((part.len() - width) / 2);
    let tops = parts.clone().map(|part| heads(part).0[h]);
    let top = tops.fold(f32::NEG_INFINITY, f32::max);
    o.fill(0.0);
    let mut sum = 0.0;
    for part in parts {
        let (tops, sums) = heads(part);
        let weight = (tops[h] - top).exp();
        sum += weight * sums[h];
        let found = &part[h * o.len()..(h + 1) * o.len()];
        o.iter_mut().zip(found).for_each(|(o, x)| *o += weight * x);
    }
    let share = sum.recip();
    o.iter_mut().for_each(|o| *o *= share);
}

/// Puts keys and values into the caches, and queries times the scale into `queries`.
fn enter(step: &Step, queries: MatMut, k: &MatMut, v: &MatMut) {
    let (dims, width) = (step.dims, queries.cols());
    with_scratch(dims.head, |scratch| {
        let frequencies: &mut [f64] = bytemuck::cast_slice_mut(&mut scratch[..dims.head / 2 * 2]);
        if let Some(base) = step.rope {
            fill_frequencies(frequencies, base);
        }
        let frequencies = step.rope.map(|_| &*frequencies);
        let columns = width + 2 * dims.kv_width();
        for_each_task(dims.slots * columns, dims.slots, |slot| {
            let [from, to] = step.columns(step.before(slot) as usize);
            // SAFETY: each task has its own slot.
            let [queries, k, v] = unsafe {
                [
                    queries.part(slot, 0, width),
                    k.part(slot, from, to),
                    v.part(slot, from, to),
                ]
            };
            let [of_q, of_k, of_v] = step.token.map(|rows| rows.row(slot));
            v.copy_from_slice(of_v);
            with_scratch(dims.head, |factors| {
                simd::dispatch(Enter {
                    rows: [(of_q, queries), (of_k, k)],
                    head: dims.head,
                    position: f64::from(step.before(slot)),
                    frequencies,
                    factors,
                });
            });
            queries.iter_mut().for_each(|q| *q *= step.scale);
        });
    });
}

/// A slot's rows before they go to where they stay.
struct Enter<'a> {
    /// Heads, and where they are put: queries and keys.
    rows: [(&'a [f32], &'a mut [f32]); 2],
    head: usize,
    position: f64,
    /// Of each pair of a head, where heads are turned.
    frequencies: Option<&'a [f64]>,
    /// Room for the cosines and sines of a head.
    factors: &'a mut [f32],
}

impl WithSimd for Enter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Some(frequencies) = self.frequencies else {
            return self
                .rows
                .into_iter()
                .for_each(|(x, y)| y.copy_from_slice(x));
        };
        let (cosines, sines) = self.factors.split_at_mut(self.head / 2);
        for (i, frequency) in frequencies.iter().enumerate() {
            let (sine, cosine) = (self.position * frequency).sin_cos();
            (cosines[i], sines[i]) = (cosine as f32, sine as f32);
        }
        for (x, y) in self.rows {
            let heads = x.chunks_exact(self.head);
            for (x, y) in heads.zip(y.chunks_exact_mut(self.head)) {
                turn_head(s, x, [&*cosines, &*sines], y);
            }
        }
    }
}

/// Some of the tokens that a slot's query sees.
struct Part<'a> {
    step: &'a Step<'a>,
    /// The query of each head, times the scale.
    q: &'a [f32],
    /// Of k and v, in which these tokens are the task's own.
    caches: [&'a MatMut<'a>; 2],
    slot: usize,
    /// Of its first token, before it is taken modulo the capacity.
    place: usize,
    count: usize,
    /// Room for (heads, [`TOKENS`]).
    weights: &'a mut [f32],
    /// What every head finds, without the share; the largest dot product of each, and the sum of exponentials.
    found: &'a mut [f32],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        for first in (0..self.count).step_by(TOGETHER) {
            self.dots(s, first);
        }
        let dims = &self.step.dims;
        let (found, of_heads) = self.found.split_at_mut(self.q.len());
        let (tops, sums) = of_heads.split_at_mut(dims.heads);
        for (h, weights) in self.weights.chunks_exact_mut(TOKENS).enumerate() {
            let x = &mut weights[..self.count];
            let (shift, scale) = (largest(x), 1.0);
            tops[h] = shift;
            sums[h] = Exponentials { x, scale, shift }.with_simd(s);
            // For the tokens that the last one stands for where they are walked together.
            weights[self.count..].fill(0.0);
        }
        found.fill(0.0);
        for first in (0..self.count).step_by(TOGETHER) {
            self.weigh(s, first);
        }
    }
}

impl<'a> Part<'a> {
    /// What a cache has of the tokens from `first` on; of the last one where there are fewer.
    #[inline(always)]
    fn rows(&self, cache: usize, first: usize) -> [&'a [f32]; TOGETHER] {
        std::array::from_fn(|i| {
            let [from, to] = self
                .step
                .columns(self.place + (first + i).min(self.count - 1));
            // SAFETY: these tokens are the task's own, and are read only.
            &*unsafe { self.caches[cache].part(self.slot, from, to) }
        })
    }

    /// The dot products of tokens with every head's query.
    #[inline(always)]
    fn dots<S: Simd>(&mut self, s: S, first: usize) {
        let (dims, rows) = (&self.step.dims, self.rows(0, first));
        for (h, q) in self.q.chunks_exact(dims.head).enumerate() {
            let keys = of_head(rows, h / dims.group(), q.len());
            let mut sums = [s.splat_f32s(0.0); TOGETHER];
            let whole = q.len() - q.len() % S::F32_LANES;
            for c in (0..whole).step_by(S::F32_LANES) {
                let c = c..c + S::F32_LANES;
                // SAFETY: q and keys are as long. Checks take a part of the time here, and below.
                let (q, keys) = unsafe { (q.get_unchecked(c.clone()), part(keys, c)) };
                multiply(s, q, keys, &mut sums);
            }
            if whole < q.len() {
                multiply(s, &q[whole..], keys.map(|key| &key[whole..]), &mut sums);
            }
            let to = &mut self.weights[h * TOKENS + first..][..TOGETHER];
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = s.reduce_sum_f32s(sum);
            }
        }
    }

    /// Adds the tokens' values to what every head finds.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, first: usize) {
        let (dims, rows) = (&self.step.dims, self.rows(1, first));
        let heads = self.found[..self.q.len()].chunks_exact_mut(dims.head);
        for (h, found) in heads.enumerate() {
            let values = of_head(rows, h / dims.group(), found.len());
            let mut weights = [s.splat_f32s(0.0); TOGETHER];
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = s.splat_f32s(self.weights[h * TOKENS + first + i]);
            }
            let whole = found.len() - found.len() % S::F32_LANES;
            for c in (0..whole).step_by(S::F32_LANES) {
                let c = c..c + S::F32_LANES;
                // SAFETY: found and values are as long.
                let (to, values) = unsafe { (found.get_unchecked_mut(c.clone()), part(values, c)) };
                add(s, weights, values, to);
            }
            if whole < found.len() {
                let values = values.map(|value| &value[whole..]);
                add(s, weights, values, &mut found[whole..]);
            }
        }
    }
}

/// The columns of a head in rows of all.
#[inline(always)]
fn of_head(rows: [&[f32]; TOGETHER], h: usize, head: usize) -> [&[f32]; TOGETHER] {
    rows.map(|row| &row[h * head..(h + 1) * head])
}

/// Some columns of rows.
///
/// # Safety
/// All rows have them.
#[inline(always)]
unsafe fn part(rows: [&[f32]; TOGETHER], columns: Range<usize>) -> [&[f32]; TOGETHER] {
    let [a, b, c, d] = rows;
    // SAFETY: as the caller promises.
    unsafe {
        [
            a.get_unchecked(columns.clone()),
            b.get_unchecked(columns.clone()),
            c.get_unchecked(columns.clone()),
            d.get_unchecked(columns),
        ]
    }
}

/// sums += q times a vector of columns of each row, or fewer.
#[inline(always)]
fn multiply<S: Simd>(s: S, q: &[f32], rows: [&[f32]; TOGETHER], sums: &mut [S::f32s; TOGETHER]) {
    let q = load(s, q);
    for (sum, row) in sums.iter_mut().zip(rows) {
        *sum = s.mul_add_f32s(load(s, row), q, *sum);
    }
}

/// y += a vector of columns of all rows by their weights, or fewer.
#[inline(always)]
fn add<S: Simd>(s: S, weights: [S::f32s; TOGETHER], rows: [&[f32]; TOGETHER], y: &mut [f32]) {
    let mut sum = load(s, y);
    for (weight, row) in weights.into_iter().zip(rows) {
        sum = s.mul_add_f32s(weight, load(s, row), sum);
    }
    store(s, y, sum);
}
