//! Embedding kernels: copies of rows, and their sums in the order of the ids.

use rayon::prelude::*;
use serpens_core::{Element, Mat, MatMut};

use crate::shared::tasks::{SMALL, for_each_task};
use crate::simd::{self, Simd, WithSimd, load, store};

/// Columns of one task of the backward pass: whole cache lines, few enough that a usual width occupies every thread.
const COLUMNS: usize = 64;

/// out\[i\] = table\[ids\[i\]\]; table: (vocabulary, out.cols()) row by row, f32 or bf16.
///
/// # Panics
/// If an id is not below the vocabulary, or the shapes disagree.
pub fn forward<T: Element + Into<f32>>(ids: &[u32], table: &[T], out: MatMut) {
    let cols = out.cols();
    assert_eq!(ids.len(), out.rows(), "one row for each id");
    assert_ids(ids, table.len(), cols);
    let block = (SMALL / cols.max(1)).max(1);
    for_each_task(ids.len() * cols, ids.len().div_ceil(block), |task| {
        let from = task * block;
        for (i, &id) in ids[from..ids.len().min(from + block)].iter().enumerate() {
            let row = &table[id as usize * cols..(id as usize + 1) * cols];
            // SAFETY: each task has its own rows.
            let to = unsafe { out.part(from + i, 0, cols) };
            for (y, &x) in to.iter_mut().zip(row) {
                *y = x.into();
            }
        }
    });
}

fn assert_ids(ids: &[u32], values: usize, cols: usize) {
    let vocabulary = values.checked_div(cols).unwrap_or(usize::MAX);
    let below = ids.iter().all(|&id| (id as usize) < vocabulary);
    assert!(below, "an id is not below the vocabulary");
}

/// dtable\[ids\[i\]\] += dy\[i\] for every i in order; `dtable` is set to zero first unless `accumulate`.
///
/// # Panics
/// As [`forward`].
pub fn backward(ids: &[u32], dy: Mat, dtable: &mut [f32], accumulate: bool) {
    let cols = dy.cols();
    assert_eq!(ids.len(), dy.rows(), "one row for each id");
    assert_ids(ids, dtable.len(), cols);
    if !accumulate {
        if dtable.len() < SMALL {
            dtable.fill(0.0);
        } else {
            dtable
                .par_chunks_mut(SMALL)
                .for_each(|values| values.fill(0.0));
        }
    }
    if cols == 0 {
        return;
    }
    let table = MatMut::dense(dtable, cols);
    // Threads share the columns, not the ids: no two of them meet in a row, and each row is summed in the order of the
    // ids.
    for_each_task(ids.len() * cols, cols.div_ceil(COLUMNS), |task| {
        let (from, to) = (task * COLUMNS, cols.min((task + 1) * COLUMNS));
        simd::dispatch(Scatter {
            ids,
            dy,
            table: &table,
            from,
            to,
        });
    });
}

/// The columns `from..to` of the backward pass; no two at work at once share a column.
struct Scatter<'a> {
    ids: &'a [u32],
    dy: Mat<'a>,
    table: &'a MatMut<'a>,
    from: usize,
    to: usize,
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for (i, &id) in self.ids.iter().enumerate() {
            let gradient = self.dy.part(i, self.from, self.to);
            // SAFETY: these columns belong to this task alone.
            let sum = unsafe { self.table.part(id as usize, self.from, self.to) };
            for (sum, gradient) in sum
                .chunks_mut(S::F32_LANES)
                .zip(gradient.chunks(S::F32_LANES))
            {
                let value = s.add_f32s(load(s, sum), load(s, gradient));
                store(s, sum, value);
            }
        }
    }
}
