//! Attention on the processor: threads over heads and tiles of queries or keys, products of tiles by a library, and
//! lanes over the keys in between.

mod step;

use std::ops::Range;

use gemm::Parallelism;
use serpens_core::{Mat, MatMut};

pub use step::{Step, step};

use super::AttentionOperands;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use crate::simd::{self, Simd, WithSimd, exp, load, store};

/// Rows of a task, and those that it walks at a time.
const TILE: usize = 64;
const WALKED: usize = 128;

/// An attention as the kernels of the processor take it.
pub type Attention<'a> = super::Attention<Mat<'a>, &'a [[u32; 2]]>;

impl Attention<'_> {
    fn check(&self, o: [usize; 2], lse: usize) {
        for (role, mat) in self.operands.iter() {
            role.assert_fits(&self.dims, mat);
        }
        let queries = self.dims.queries();
        assert_eq!(o, [queries, self.dims.heads * self.dims.head], "o");
        assert_eq!(lse, self.dims.heads * queries, "lse");
        assert!(
            self.documents.is_none_or(|all| all.len() == queries),
            "documents"
        );
    }

    /// The keys that a query sees. Neither end goes back from one query to the next.
    fn keys_of(&self, query: usize) -> Range<usize> {
        let sequence = query / self.dims.length;
        let (begin, own) = match self.documents {
            Some(all) => (all[query][0] as usize, query),
            None => (
                sequence * (self.dims.length + self.dims.past),
                query + (sequence + 1) * self.dims.past,
            ),
        };
        begin.max((own + 1).saturating_sub(self.window))..own + 1
    }

    /// The queries that see a key, where there are as many of both.
    fn queries_of(&self, key: usize) -> Range<usize> {
        let end = match self.documents {
            Some(all) => all[key][1] as usize,
            None => (key / self.dims.length + 1) * self.dims.length,
        };
        key..end.min(key + self.window)
    }

    /// All that `tile` of queries sees, [`WALKED`] keys at a time.
    fn walk_keys(&self, tile: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        pieces(self.keys_of(tile.start).start..self.keys_of(tile.end - 1).end)
    }

    /// Does `work` with each of some heads and each tile of rows.
    fn for_each_tile(&self, heads: usize, work: impl Fn(usize, Range<usize>) + Sync) {
        let queries = self.dims.queries();
        // Sequences share tiles, but not where each has keys of its own beside.
        let stretch = if self.dims.past > 0 {
            self.dims.length
        } else {
            queries
        };
        let of_stretch = stretch.div_ceil(TILE);
        let tiles = queries.checked_div(stretch).unwrap_or(0) * of_stretch;
        for_each_task(queries * heads * self.dims.head, heads * tiles, |task| {
            let (tile, first) = (task / heads, task / heads / of_stretch * stretch);
            let from = first + tile % of_stretch * TILE;
            work(task % heads, from..(first + stretch).min(from + TILE));
        });
    }

    /// The columns of a head.
    fn columns(&self, head: usize) -> Range<usize> {
        head * self.dims.head..(head + 1) * self.dims.head
    }
}

/// [`WALKED`] rows at a time.
fn pieces(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(WALKED)
        .map(move |from| from..end.min(from + WALKED))
}

/// A factor of a product: where its first value lies, and the distances of neighbours in a column and in a row.
#[derive(Clone, Copy)]
struct Factor {
    first: *const f32,
    strides: [usize; 2],
}

impl Factor {
    /// These rows and columns of a matrix.
    fn of(mat: Mat, rows: &Range<usize>, columns: &Range<usize>) -> Self {
        assert!(
            rows.end <= mat.rows() && columns.end <= mat.cols(),
            "inside"
        );
        let strides = [mat.stride(), 1];
        let first = mat
            .as_ptr()
            .wrapping_add(rows.start * mat.stride() + columns.start);
        Self { first, strides }
    }

    /// A tile of `columns` columns, row by row.
    fn tile(values: &[f32], columns: usize) -> Self {
        let (first, strides) = (values.as_ptr(), [columns, 1]);
        Self { first, strides }
    }

    fn transposed(self) -> Self {
        let [row, column] = self.strides;
        let strides = [column, row];
        Self { strides, ..self }
    }
}

/// y = factor · a b, or y + that where `accumulate`, row by row.
///
/// # Safety
/// a is (m, k) and b (k, n), each valid by its strides.
unsafe fn product(
    [m, n, k]: [usize; 3],
    y: &mut [f32],
    accumulate: bool,
    [a, b]: [Factor; 2],
    factor: f32,
) {
    assert!(y.len() >= m * n, "y");
    let ([a_row, a_column], [b_row, b_column]) = (a.strides, b.strides);
    // SAFETY: as the caller promises, and y is (m, n), borrowed uniquely.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.first,
            a_column as isize,
            a_row as isize,
            b.first,
            b_column as isize,
            b_row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Writes a tile of sums, row by row, to these rows and columns.
///
/// # Safety
/// They are in no other use.
unsafe fn put(to: &MatMut, rows: Range<usize>, columns: &Range<usize>, sums: &[f32]) {
    for (row, sums) in rows.zip(sums.chunks_exact(columns.len())) {
        // SAFETY: as the caller promises.
        unsafe { to.part(row, columns.start, columns.end) }.copy_from_slice(sums);
    }
}

/// o, and `lse` (heads, queries): the logarithm of each query's sum of exponentials.
///
/// # Panics
/// If the shapes disagree.
pub fn forward(attention: &Attention, o: MatMut, lse: &mut [f32]) {
    attention.check([o.rows(), o.cols()], lse.len());
    let (dims, AttentionOperands { q, k, v }) = (attention.dims, attention.operands);
    let (queries, head) = (dims.queries(), dims.head);
    let lse = MatMut::new(lse, dims.heads, queries, queries, 0);
    attention.for_each_tile(dims.heads, |h, tile| {
        let (columns, kv_columns) = (attention.columns(h), attention.columns(h / dims.group()));
        let (mut top, mut sums) = ([f32::NEG_INFINITY; TILE], [0.0; TILE]);
        with_scratch(TILE * (WALKED + head), |scratch| {
            let (weights, values) = scratch.split_at_mut(TILE * WALKED);
            for (step, keys) in attention.walk_keys(&tile).enumerate() {
                let sizes = [tile.len(), keys.len(), head];
                let of_q = Factor::of(q, &tile, &columns);
                let of_k = Factor::of(k, &keys, &kv_columns).transposed();
                // SAFETY: the factors are of these sizes.
                unsafe { product(sizes, weights, false, [of_q, of_k], attention.scale) };
                let rows = weights.chunks_exact_mut(keys.len());
                for (i, (weights, values)) in rows
                    .zip(values.chunks_exact_mut(head))
                    .take(tile.len())
                    .enumerate()
                {
                    let seen = within(attention.keys_of(tile.start + i), &keys);
                    weights[..seen.start].fill(0.0);
                    weights[seen.end..].fill(0.0);
                    let (before, most) = (top[i], top[i].max(largest(&weights[seen.clone()])));
                    let sum = simd::dispatch(Exponentials {
                        x: &mut weights[seen],
                        scale: 1.0,
                        shift: most,
                    });
                    if step > 0 && most > before {
                        let factor = (before - most).exp();
                        sums[i] *= factor;
                        values.iter_mut().for_each(|value| *value *= factor);
                    }
                    (top[i], sums[i]) = (most, sums[i] + sum);
                }
                let sizes = [tile.len(), head, keys.len()];
                let factors = [
                    Factor::tile(weights, keys.len()),
                    Factor::of(v, &keys, &kv_columns),
                ];
                // SAFETY: as above.
                unsafe { product(sizes, values, step > 0, factors, 1.0) };
            }
            for (values, sum) in values.chunks_exact_mut(head).zip(&sums[..tile.len()]) {
                let share = sum.recip();
                values.iter_mut().for_each(|value| *value *= share);
            }
            // SAFETY: each task has its own rows of a head.
            let lse = unsafe {
                put(&o, tile.clone(), &columns, values);
                lse.part(h, tile.start, tile.end)
            };
            for (i, lse) in lse.iter_mut().enumerate() {
                *lse = top[i] + sums[i].ln();
            }
        });
    });
}

/// The gradients of q, k and v from `dy`, that of o.
///
/// # Panics
/// If the shapes disagree, or there are keys from before the queries.
pub fn backward(
    attention: &Attention,
    o: Mat,
    lse: &[f32],
    dy: Mat,
    grads: AttentionOperands<MatMut>,
) {
    attention.check([o.rows(), o.cols()], lse.len());
    assert_eq!([dy.rows(), dy.cols()], [o.rows(), o.cols()], "dy");
    grads
        .iter()
        .for_each(|(role, grad)| role.assert_fits(&attention.dims, grad));
    assert_eq!(attention.dims.past, 0, "keys from before the queries");
    with_scratch(lse.len(), |deltas| {
        let (heads, queries) = (attention.dims.heads, attention.dims.queries());
        let all = MatMut::new(deltas, heads, queries, queries, 0);
        attention.for_each_tile(heads, |h, tile| {
            let columns = attention.columns(h);
            for query in tile {
                let [o, dy] = [o, dy].map(|mat| mat.part(query, columns.start, columns.end));
                let sum = o.iter().zip(dy).map(|(o, dy)| o * dy).sum();
                // SAFETY: each task has its own queries of a head.
                let delta = unsafe { all.part(h, query, query + 1) };
                delta.fill(sum);
            }
        });
        let back = Back {
            attention,
            dy,
            lse,
            deltas,
        };
        back.queries(&grads.q);
        back.keys(&grads.k, &grads.v);
    });
}

/// What the gradients are made of.
struct Back<'a> {
    attention: &'a Attention<'a>,
    dy: Mat<'a>,
    lse: &'a [f32],
    /// (heads, queries): ⟨do, o⟩.
    deltas: &'a [f32],
}

impl Back<'_> {
    /// p and dS of some queries (rows) and keys of a head of q.
    fn slopes(
        &self,
        h: usize,
        [queries, keys]: [&Range<usize>; 2],
        weights: &mut [f32],
        slopes: &mut [f32],
    ) {
        let (attention, width) = (self.attention, keys.len());
        let AttentionOperands { q, k, v } = attention.operands;
        let (columns, kv_columns) = (
            attention.columns(h),
            attention.columns(h / attention.dims.group()),
        );
        let sizes = [queries.len(), width, attention.dims.head];
        let factors = |mine, theirs| {
            let theirs = Factor::of(theirs, keys, &kv_columns);
            [Factor::of(mine, queries, &columns), theirs.transposed()]
        };
        // SAFETY: the factors are of these sizes.
        unsafe {
            product(sizes, weights, false, factors(q, k), 1.0);
            product(sizes, slopes, false, factors(self.dy, v), 1.0);
        }
        let rows = weights
            .chunks_exact_mut(width)
            .zip(slopes.chunks_exact_mut(width));
        for (query, (weights, slopes)) in queries.clone().zip(rows) {
            let seen = within(attention.keys_of(query), keys);
            for outside in [0..seen.start, seen.end..width] {
                weights[outside.clone()].fill(0.0);
                slopes[outside].fill(0.0);
            }
            let (weights, slopes) = (&mut weights[seen.clone()], &mut slopes[seen]);
            let at = h * attention.dims.queries() + query;
            simd::dispatch(Exponentials {
                x: &mut *weights,
                scale: attention.scale,
                shift: self.lse[at],
            });
            for (slope, weight) in slopes.iter_mut().zip(weights) {
                *slope = *weight * (*slope - self.deltas[at]);
            }
        }
    }

    fn queries(&self, dq: &MatMut) {
        let (attention, AttentionOperands { k, .. }) = (self.attention, self.attention.operands);
        let head = attention.dims.head;
        attention.for_each_tile(attention.dims.heads, |h, tile| {
            let (columns, kv_columns) = (
                attention.columns(h),
                attention.columns(h / attention.dims.group()),
            );
            with_scratch(TILE * (2 * WALKED + head), |scratch| {
                let (weights, rest) = scratch.split_at_mut(TILE * WALKED);
                let (slopes, sums) = rest.split_at_mut(TILE * WALKED);
                for (step, keys) in attention.walk_keys(&tile).enumerate() {
                    self.slopes(h, [&tile, &keys], weights, slopes);
                    let factors = [
                        Factor::tile(slopes, keys.len()),
                        Factor::of(k, &keys, &kv_columns),
                    ];
                    let sizes = [tile.len(), head, keys.len()];
                    // SAFETY: the factors are of these sizes.
                    unsafe { product(sizes, sums, step > 0, factors, attention.scale) };
                }
                // SAFETY: each task has its own rows of a head.
                unsafe { put(dq, tile, &columns, sums) };
            });
        });
    }

    fn keys(&self, dk: &MatMut, dv: &MatMut) {
        let (attention, AttentionOperands { q, .. }) = (self.attention, self.attention.operands);
        let (group, head) = (attention.dims.group(), attention.dims.head);
        attention.for_each_tile(attention.dims.kv_heads, |kv_head, tile| {
            let seeing =
                attention.queries_of(tile.start).start..attention.queries_of(tile.end - 1).end;
            let heads = kv_head * group..(kv_head + 1) * group;
            let steps = heads.flat_map(|h| pieces(seeing.clone()).map(move |queries| (h, queries)));
            with_scratch(2 * TILE * (WALKED + head), |scratch| {
                let (weights, rest) = scratch.split_at_mut(TILE * WALKED);
                let (slopes, sums) = rest.split_at_mut(TILE * WALKED);
                let (of_k, of_v) = sums.split_at_mut(TILE * head);
                for (step, (h, queries)) in steps.enumerate() {
                    self.slopes(h, [&queries, &tile], weights, slopes);
                    let (columns, sizes) =
                        (attention.columns(h), [tile.len(), head, queries.len()]);
                    let factors = |tiles: &[f32], mat| {
                        let mine = Factor::tile(tiles, tile.len());
                        [mine.transposed(), Factor::of(mat, &queries, &columns)]
                    };
                    // SAFETY: the factors are of these sizes.
                    unsafe {
                        product(sizes, of_v, step > 0, factors(weights, self.dy), 1.0);
                        product(sizes, of_k, step > 0, factors(slopes, q), attention.scale);
                    }
                }
                let columns = attention.columns(kv_head);
                // SAFETY: each task has its own rows of a head.
                unsafe {
                    put(dk, tile.clone(), &columns, of_k);
                    put(dv, tile, &columns, of_v);
                }
            });
        });
    }
}

/// What of `seen` lies in `all`, counted from its start.
fn within(seen: Range<usize>, all: &Range<usize>) -> Range<usize> {
    let place = |at: usize| at.clamp(all.start, all.end) - all.start;
    place(seen.start)..place(seen.end)
}

fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// x = e^(scale x - shift); gives their sum.
struct Exponentials<'a> {
    x: &'a mut [f32],
    scale: f32,
    shift: f32,
}

impl WithSimd for Exponentials<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let (scale, shift) = (s.splat_f32s(self.scale), s.splat_f32s(self.shift));
        let mut sums = s.splat_f32s(0.0);
        let whole = self.x.len() / S::F32_LANES * S::F32_LANES;
        for c in (0..whole).step_by(S::F32_LANES) {
            let power = exp(
                s,
                s.sub_f32s(s.mul_f32s(load(s, &self.x[c..]), scale), shift),
            );
            store(s, &mut self.x[c..], power);
            sums = s.add_f32s(sums, power);
        }
        let rest = &mut self.x[whole..];
        let power = exp(s, s.sub_f32s(s.mul_f32s(load(s, rest), scale), shift));
        store(s, rest, power);
        s.reduce_sum_f32s(sums) + rest.iter().sum::<f32>()
    }
}
