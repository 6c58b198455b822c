//! One sequence in the direction of the convolution, and the lanes that both passes share.

use serpens_core::Mat;

use crate::simd::{Simd, load, store};

/// Steps of one block.
pub(super) const BLOCK: usize = 8;

/// Largest width that goes by blocks.
pub(super) const WIDEST: usize = 4;

/// Rows that the outputs of one block see.
pub(super) const SEEN: usize = BLOCK + WIDEST - 1;

/// One sequence as the convolution meets it, step by step.
#[derive(Clone, Copy)]
pub(super) struct Sequence<'a> {
    pub(super) x: Mat<'a>,
    /// (width + 1, channels): the weight of each tap, then the bias.
    pub(super) taps: Mat<'a>,
    pub(super) state: Option<&'a [f32]>,
    pub(super) starts: Option<&'a [bool]>,
    pub(super) first_row: usize,
    pub(super) length: usize,
    pub(super) width: usize,
    pub(super) reverse: bool,
    pub(super) silu: bool,
}

impl<'a> Sequence<'a> {
    /// The row of the batch that holds `step`.
    #[inline(always)]
    pub(super) fn row(&self, step: usize) -> usize {
        self.first_row
            + if self.reverse {
                self.length - 1 - step
            } else {
                step
            }
    }

    /// The inputs at `back` steps before `step`, from the initial state if that lies before the first; `None` for
    /// zeros.
    #[inline(always)]
    pub(super) fn input(&self, step: usize, back: usize) -> Option<&'a [f32]> {
        if back <= step {
            return Some(self.x.row(self.row(step - back)));
        }
        let (row, channels) = (self.width - 1 + step - back, self.x.cols());
        self.state
            .map(|state| &state[row * channels..(row + 1) * channels])
    }

    /// Whether a sequence ends between the steps `step − 1` and `step` ≤ length.
    #[inline(always)]
    pub(super) fn boundary(&self, step: usize) -> bool {
        let at = |starts: &[bool]| starts[self.row(step) - self.first_row];
        step < self.length && self.starts.is_some_and(at)
    }

    /// How many of the width − 1 inputs before `step` it sees.
    #[inline(always)]
    pub(super) fn reach(&self, step: usize) -> usize {
        let hidden = |back: &usize| *back <= step && self.boundary(step - *back);
        (0..self.width - 1).find(hidden).unwrap_or(self.width - 1)
    }

    /// Whether the block of steps from `first` on sees nothing but x, and all of it, and is seen so by the steps after
    /// it.
    #[inline(always)]
    pub(super) fn is_plain(&self, first: usize) -> bool {
        let history = self.width - 1;
        let last = (first + BLOCK - 1 + history).min(self.length - 1);
        (1..WIDEST).contains(&history)
            && first >= history
            && (self.starts.is_none() || !(first + 1 - history..=last).any(|t| self.boundary(t)))
    }

    /// The rows of x that a plain block from `first` on sees, the earliest first; the surplus ones are empty.
    #[inline(always)]
    pub(super) fn seen(&self, first: usize) -> [&'a [f32]; SEEN] {
        let rows = BLOCK + self.width - 1;
        std::array::from_fn(|i| match i < rows {
            true => self.x.row(self.row(first + i + 1 - self.width)),
            false => &[],
        })
    }

    /// out = bias + Σ_k weight\[k\] · x\[step − W + 1 + k\].
    #[inline(always)]
    pub(super) fn sum_row<S: Simd>(&self, s: S, step: usize, out: &mut [f32]) {
        out.copy_from_slice(self.taps.row(self.width));
        for back in (0..=self.reach(step)).rev() {
            if let Some(x) = self.input(step, back) {
                add_product(s, self.taps.row(self.width - 1 - back), x, out);
            }
        }
    }

    /// Writes the last width − 1 inputs, zeros for hidden ones.
    pub(super) fn carry(&self, state: &mut [f32]) {
        let (history, channels) = (self.width - 1, self.x.cols());
        let reach = self.reach(self.length);
        for back in 1..=history {
            let row = &mut state[(history - back) * channels..(history - back + 1) * channels];
            match self.input(self.length, back).filter(|_| back <= reach) {
                Some(x) => row.copy_from_slice(x),
                None => row.fill(0.0),
            }
        }
    }
}

/// sum += a ⊙ b.
#[inline(always)]
pub(super) fn add_product<S: Simd>(s: S, a: &[f32], b: &[f32], sum: &mut [f32]) {
    for c in (0..sum.len()).step_by(S::F32_LANES) {
        let value = s.mul_add_f32s(load(s, &a[c..]), load(s, &b[c..]), load(s, &sum[c..]));
        store(s, &mut sum[c..], value);
    }
}

/// sum += a.
#[inline(always)]
pub(super) fn add_row<S: Simd>(s: S, a: &[f32], sum: &mut [f32]) {
    for c in (0..sum.len()).step_by(S::F32_LANES) {
        let value = s.add_f32s(load(s, &a[c..]), load(s, &sum[c..]));
        store(s, &mut sum[c..], value);
    }
}

/// The lanes from `c` on of the first rows of a list, zeros beyond it.
#[inline(always)]
pub(super) fn load_rows<S: Simd, const N: usize>(s: S, rows: &[&[f32]], c: usize) -> [S::f32s; N] {
    let mut lanes = [s.splat_f32s(0.0); N];
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        *lanes = load(s, &row[c..]);
    }
    lanes
}

/// bias + Σ_k weight\[k\] · x\[k\].
#[inline(always)]
pub(super) fn filter<S: Simd, const W: usize>(
    s: S,
    bias: S::f32s,
    weight: &[S::f32s; W],
    x: &[S::f32s],
) -> S::f32s {
    let mut sum = bias;
    for (weight, x) in weight.iter().zip(x) {
        sum = s.mul_add_f32s(*weight, *x, sum);
    }
    sum
}
