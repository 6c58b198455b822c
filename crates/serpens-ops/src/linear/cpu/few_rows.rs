//! Products with few rows of x: W is read once, in order, and nothing is packed.

use std::ops::Range;

use serpens_core::{Mat, MatMut};

use crate::shared::tasks::for_each_task;
use crate::simd::{self, Isa, Simd, Stored, WithSimd, load};

/// Rows of W of one task: at usual widths they stay in the second-level cache while all rows of x meet them.
const TASK_OUTPUTS: usize = 16;

/// Lanes of AVX2, which has sixteen registers for sums and what they are made of; AVX-512 and NEON have twice as many.
const FEW_REGISTERS: usize = 8;

/// y = x Wᵀ + b, added to what y holds where `accumulate`, with this instruction set.
pub(in crate::linear) fn few_rows<T: Stored>(
    isa: Isa,
    x: Mat,
    w: Mat<T>,
    b: Option<&[f32]>,
    y: MatMut,
    accumulate: bool,
) {
    let (d_in, d_out) = (x.cols(), y.cols());
    let tasks = d_out.div_ceil(TASK_OUTPUTS);
    // A multiplication out of the cache takes about an eighth of the time of a value that comes from memory and goes
    // there.
    for_each_task(x.rows() * d_in * d_out / 8, tasks, |task| {
        let from = task * TASK_OUTPUTS;
        let to = d_out.min(from + TASK_OUTPUTS);
        isa.run(DotProducts {
            x,
            w,
            b,
            y: &y,
            accumulate,
            from,
            to,
        });
    });
}

/// y\[r, o\] = ⟨x\[r\], w\[o\]⟩ + b\[o\] for the o in `from..to`, which are this task's own; added to what y holds
/// where `accumulate`.
#[derive(Clone, Copy)]
struct DotProducts<'a, T> {
    x: Mat<'a>,
    w: Mat<'a, T>,
    b: Option<&'a [f32]>,
    y: &'a MatMut<'a>,
    accumulate: bool,
    from: usize,
    to: usize,
}

impl<T: Stored> WithSimd for DotProducts<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows = self.x.rows();
        if rows == 1 {
            // Memory is fastest where it is read in one stream.
            self.group::<S, 1, 1>(s, 0, &mut Ahead::default());
            return;
        }
        let few = S::F32_LANES == FEW_REGISTERS;
        let mut ahead = self.ahead::<S>();
        let mut r = 0;
        while r < rows {
            r += match rows - r {
                1 => self.group::<S, 1, 4>(s, r, &mut ahead),
                2 => self.group::<S, 2, 4>(s, r, &mut ahead),
                8.. if few => self.group::<S, 8, 1>(s, r, &mut Ahead::default()),
                3 => self.group::<S, 3, 4>(s, r, &mut ahead),
                _ => self.group::<S, 4, 4>(s, r, &mut ahead),
            };
        }
    }
}

impl<T: Stored> DotProducts<'_, T> {
    /// The next task's rows of W.
    #[inline(always)]
    fn ahead<S: Simd>(&self) -> Ahead {
        let vectors = self.x.cols().div_ceil(S::F32_LANES);
        let steps = self.x.rows().div_ceil(4) * TASK_OUTPUTS / 4 * vectors;
        let next = self.to..self.w.rows().min(self.to + TASK_OUTPUTS);
        let lines = next.len() * self.w.stride() * size_of::<T>() / Ahead::LINE;
        let first = self.w.as_ptr().wrapping_add(self.to * self.w.stride());
        Ahead {
            next: first.cast(),
            lines,
            each: lines.div_ceil(steps.max(1)),
        }
    }

    /// The R rows from `r` on, O outputs at a time. Gives R.
    #[inline(always)]
    fn group<S: Simd, const R: usize, const O: usize>(
        self,
        s: S,
        r: usize,
        ahead: &mut Ahead,
    ) -> usize {
        let x = std::array::from_fn(|i| self.x.row(r + i));
        // SAFETY: these columns belong to this task alone, and the rows differ.
        let mut y = std::array::from_fn(|i| unsafe { self.y.part(r + i, self.from, self.to) });
        let mut o = 0;
        while o + O <= self.to - self.from {
            self.dots::<S, R, O>(s, x, &mut y, o, ahead);
            o += O;
        }
        while o < self.to - self.from {
            self.dots::<S, R, 1>(s, x, &mut y, o, ahead);
            o += 1;
        }
        R
    }

    /// The O outputs from `from + o` on, of R rows.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const O: usize>(
        self,
        s: S,
        x: [&[f32]; R],
        y: &mut [&mut [f32]; R],
        o: usize,
        ahead: &mut Ahead,
    ) {
        let (first, d_in) = (self.from + o, self.x.cols());
        let w: [&[T]; O] = std::array::from_fn(|i| self.w.row(first + i));
        let mut sums = [[s.splat_f32s(0.0); O]; R];
        // Vectors this narrow are too many for the processor to see far ahead.
        let asks = O == 1 && S::F32_LANES == FEW_REGISTERS;
        let whole = d_in - d_in % S::F32_LANES;
        for c in (0..whole).step_by(S::F32_LANES) {
            ahead.step();
            // SAFETY: rows have `d_in` columns, of which these are some.
            unsafe { add_products(s, &mut sums, w, x, c..c + S::F32_LANES) };
            if asks && (c * size_of::<T>()).is_multiple_of(Ahead::LINE) {
                let here = w[0].as_ptr().wrapping_add(c).cast::<u8>();
                simd::prefetch(here.wrapping_add(simd::AHEAD));
            }
        }
        if whole < d_in {
            // SAFETY: as above.
            unsafe { add_products(s, &mut sums, w, x, whole..d_in) };
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            for (i, sum) in sums.into_iter().enumerate() {
                let dot = s.reduce_sum_f32s(sum) + self.b.map_or(0.0, |b| b[first + i]);
                y[o + i] = if self.accumulate { y[o + i] + dot } else { dot };
            }
        }
    }
}

/// sums += w x for these columns, at most as many as there are lanes.
///
/// # Safety
/// All rows have them.
#[inline(always)]
unsafe fn add_products<S: Simd, T: Stored, const R: usize, const O: usize>(
    s: S,
    sums: &mut [[S::f32s; O]; R],
    w: [&[T]; O],
    x: [&[f32]; R],
    columns: Range<usize>,
) {
    let mut weights = [s.splat_f32s(0.0); O];
    for (weight, w) in weights.iter_mut().zip(w) {
        // SAFETY: as the caller promises. Checks take as long as products here.
        *weight = T::lanes(s, unsafe { w.get_unchecked(columns.clone()) });
    }
    for (sums, x) in sums.iter_mut().zip(x) {
        // SAFETY: as above.
        let x = load(s, unsafe { x.get_unchecked(columns.clone()) });
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = s.mul_add_f32s(x, weight, *sum);
        }
    }
}

/// What is asked of memory while other things are computed, a few lines at each step, in order: rows of W that are used
/// side by side come late otherwise.
#[derive(Default)]
struct Ahead {
    next: *const u8,
    lines: usize,
    /// Lines of a step.
    each: usize,
}

impl Ahead {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    #[inline(always)]
    fn step(&mut self) {
        if self.lines > 0 {
            for _ in 0..self.each {
                simd::prefetch(self.next);
                self.next = self.next.wrapping_add(Self::LINE);
            }
            self.lines = self.lines.saturating_sub(self.each);
        }
    }
}
