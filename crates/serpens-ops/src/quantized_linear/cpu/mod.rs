//! On the processor: x becomes integers once for each product, and a task multiplies a few panels of W with all of
//! them.

mod activations;
pub mod blocks;
mod kinds;
pub(super) mod lanes;
pub(crate) mod layout;

use std::marker::PhantomData;
use std::ops::Range;

use serpens_core::{Mat, MatMut};

use super::{Blocks, Packed};
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use activations::{COLUMNS, Rows, WORDS, quantize};
use kinds::Kind;
use lanes::{Lanes, OnLanes, Set};
use layout::PANEL;

/// Rows of x that meet a panel while it is in the cache, and so do they.
const ROWS_OF_TASK: usize = 256;

/// Bytes of W times rows of a task, about: what takes a microsecond.
const TASK: usize = 1 << 14;

/// y = x Wᵀ + b; x: (rows, d_in), w: (d_out, d_in), b: (d_out), y: (rows, d_out).
///
/// # Panics
/// If the shapes disagree, or w is not on the processor.
pub fn forward(x: Mat, w: &Packed, b: Option<&[f32]>, y: MatMut) {
    product(x, w, b, y, false);
}

/// As [`forward`]; added to what y holds where `accumulate`.
pub(crate) fn product(x: Mat, w: &Packed, b: Option<&[f32]>, y: MatMut, accumulate: bool) {
    on(Set::current(), x, w, b, y, accumulate);
}

/// As [`product`], on one of the sets that there are.
pub(super) fn on(set: Set, x: Mat, w: &Packed, b: Option<&[f32]>, y: MatMut, accumulate: bool) {
    assert_eq!((y.rows(), y.cols()), (x.rows(), w.rows()), "y");
    assert_eq!(x.cols(), w.cols(), "x");
    assert!(b.is_none_or(|b| b.len() == w.rows()), "bias");
    let product = Product {
        panels: w.data().as_bytes().expect("the weight is on the processor"),
        x,
        b,
        y: &y,
        accumulate,
    };
    match w.blocks() {
        Blocks::Q8_0 => product.run::<kinds::Q8>(set),
        Blocks::Q4_0 => product.run::<kinds::Q4>(set),
        Blocks::Q4_K => product.run::<kinds::Q4K>(set),
        Blocks::Q6_K => product.run::<kinds::Q6K>(set),
    }
}

/// The operands of a product.
#[derive(Clone, Copy)]
struct Product<'a> {
    panels: &'a [u8],
    x: Mat<'a>,
    b: Option<&'a [f32]>,
    y: &'a MatMut<'a>,
    accumulate: bool,
}

impl Product<'_> {
    fn run<K: Kind>(self, set: Set) {
        let (rows, d_in, d_out) = (self.x.rows(), self.x.cols(), self.y.cols());
        let words_of_row = d_in / COLUMNS * WORDS;
        with_scratch(rows * words_of_row, |scratch| {
            let words: &mut [u32] = bytemuck::cast_slice_mut(scratch);
            let blocks = rows.div_ceil(ROWS_OF_TASK);
            let rows_of = |block: usize| block * ROWS_OF_TASK..rows.min((block + 1) * ROWS_OF_TASK);
            let len = words.len();
            let to = MatMut::new(&mut *words, 1, len, len, 0);
            for_each_task(rows * d_in, rows.div_ceil(MOST_ROWS), |group| {
                let rows = group * MOST_ROWS..rows.min((group + 1) * MOST_ROWS);
                let op = Quantize::<K> {
                    x: self.x,
                    to: &to,
                    rows,
                    kind: PhantomData,
                };
                // SAFETY: the set is there; each task has rows of its own.
                unsafe { set.run(op) };
            });
            let (panels, words) = (d_out.div_ceil(PANEL), &*words);
            let of_panel = d_in / K::BLOCKS.values() * K::BLOCKS.bytes() * PANEL;
            let each = (TASK / (of_panel * rows.min(ROWS_OF_TASK)).max(1)).max(1);
            let tasks = panels.div_ceil(each);
            for_each_task(rows * d_in * d_out / 8, blocks * tasks, |task| {
                let (block, first) = (task / tasks, task % tasks * each);
                let op = Panels::<K> {
                    product: self,
                    words,
                    rows: rows_of(block),
                    panels: first..panels.min(first + each),
                    kind: PhantomData,
                };
                // SAFETY: as above.
                unsafe { set.run(op) };
            });
        });
    }
}

/// The largest [`group`].
const MOST_ROWS: usize = 8;

/// Rows that are worked on together where so many are left: what the lanes have registers for. A loop with a closure
/// for its body would not do: closures are compiled for the instruction set of their callers only where the compiler
/// likes to.
#[inline(always)]
fn group<L: Lanes, K: Kind>(left: usize) -> usize {
    match left {
        8.. if L::SUMS >= 8 * K::SUMS => 8,
        4.. if L::SUMS >= 4 * K::SUMS => 4,
        2.. if L::SUMS >= 2 * K::SUMS => 2,
        _ => 1,
    }
}

/// Makes integers of rows of x.
struct Quantize<'a, K> {
    x: Mat<'a>,
    /// One row behind the other.
    to: &'a MatMut<'a, u32>,
    rows: Range<usize>,
    kind: PhantomData<K>,
}

impl<K: Kind> Quantize<'_, K> {
    #[inline(always)]
    fn group<L: Lanes, const R: usize>(&self, first: usize) {
        let mut x: [&[f32]; R] = [&[]; R];
        for (r, x) in x.iter_mut().enumerate() {
            *x = self.x.row(first + r);
        }
        let of_row = self.x.cols() / COLUMNS * WORDS;
        // SAFETY: these rows are this task's own.
        let to = unsafe { self.to.part(0, first * of_row, (first + R) * of_row) };
        quantize::<R>(x, to, K::correction::<L>);
    }
}

impl<K: Kind> OnLanes for Quantize<'_, K> {
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let mut first = self.rows.start;
        while first < self.rows.end {
            let group = group::<L, K>(self.rows.end - first);
            match group {
                8 => self.group::<L, 8>(first),
                4 => self.group::<L, 4>(first),
                2 => self.group::<L, 2>(first),
                _ => self.group::<L, 1>(first),
            }
            first += group;
        }
    }
}

/// The products of some panels with some rows, which are this task's own in y.
struct Panels<'a, K> {
    product: Product<'a>,
    words: &'a [u32],
    rows: Range<usize>,
    panels: Range<usize>,
    kind: PhantomData<K>,
}

impl<K: Kind> Panels<'_, K> {
    #[inline(always)]
    fn group<L: Lanes, const R: usize>(&self, l: L, panel: &[u8], p: usize, first: usize) {
        let words_of_row = self.product.x.cols() / COLUMNS * WORDS;
        let x = Rows::<R>::new(&self.words[first * words_of_row..(first + R) * words_of_row]);
        let mut sums = [l.splat(0.0); R];
        let blocks = panel.chunks_exact(K::BLOCKS.bytes() * PANEL).enumerate();
        for (i, block) in blocks {
            // SAFETY: a block of a panel.
            sums = unsafe { K::add(l, block.as_ptr(), x, i, sums) };
        }
        let from = p * PANEL;
        let to = self.product.y.cols().min(from + PANEL);
        for (r, sums) in sums.into_iter().enumerate() {
            // SAFETY: these columns of these rows are this task's own.
            let y = unsafe { self.product.y.part(first + r, from, to) };
            let mut sums = l.to_array(sums);
            if let Some(b) = self.product.b {
                sums.iter_mut()
                    .zip(&b[from..to])
                    .for_each(|(sum, b)| *sum += b);
            }
            match self.product.accumulate {
                true => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                false => y.copy_from_slice(&sums[..to - from]),
            }
        }
    }
}

impl<K: Kind> OnLanes for Panels<'_, K> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let of_panel = self.product.x.cols() / K::BLOCKS.values() * K::BLOCKS.bytes() * PANEL;
        for p in self.panels.clone() {
            let panel = &self.product.panels[p * of_panel..(p + 1) * of_panel];
            let mut first = self.rows.start;
            while first < self.rows.end {
                let group = group::<L, K>(self.rows.end - first);
                match group {
                    8 => self.group::<L, 8>(l, panel, p, first),
                    4 => self.group::<L, 4>(l, panel, p, first),
                    2 => self.group::<L, 2>(l, panel, p, first),
                    _ => self.group::<L, 1>(l, panel, p, first),
                }
                first += group;
            }
        }
    }
}
