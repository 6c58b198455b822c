//! The backward pass of one segment of a sequence.

use serpens_core::{Mat, MatMut};

use super::sequence::{BLOCK, SEEN, Sequence, WIDEST, add_product, add_row, filter, load_rows};
use crate::simd::{Simd, WithSimd, load, silu_and_slope, store};

/// The backward pass of the steps `steps.0..steps.1`, from the last to the first.
pub(super) struct Backward<'a> {
    pub(super) sequence: Sequence<'a>,
    pub(super) steps: (usize, usize),
    pub(super) dy: Mat<'a>,
    pub(super) d_final_state: Option<&'a [f32]>,
    pub(super) dx: &'a MatMut<'a>,
    pub(super) dinitial_state: Option<&'a mut [f32]>,
    /// (width + 1, channels), overwritten.
    pub(super) dtaps: &'a mut [f32],
    /// (width, channels): the gradient at the sum of `step` lies in row `step % width` until it has reached every
    /// input.
    pub(super) ring: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (start, end) = self.steps;
        self.dtaps.fill(0.0);
        self.ring.fill(0.0);
        for step in end..self.sequence.length.min(end + self.sequence.width - 1) {
            self.gradient_of_sum(s, step);
        }
        let mut step = end;
        while step > start {
            if step >= start + BLOCK && self.sequence.is_plain(step - BLOCK) {
                step -= BLOCK;
                match self.sequence.width {
                    2 => self.block::<S, 2>(s, step),
                    3 => self.block::<S, 3>(s, step),
                    _ => self.block::<S, WIDEST>(s, step),
                }
            } else {
                step -= 1;
                self.single(s, step);
            }
        }
        self.states(s);
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn slot(&self, step: usize) -> std::ops::Range<usize> {
        let (channels, slot) = (self.dx.cols(), step % self.sequence.width);
        slot * channels..(slot + 1) * channels
    }

    /// Writes dy · act'(sum) of `step` to its row of the ring.
    #[inline(always)]
    fn gradient_of_sum<S: Simd>(&mut self, s: S, step: usize) {
        let dy = self.dy.row(self.sequence.row(step));
        let slot = self.slot(step);
        let g = &mut self.ring[slot];
        if !self.sequence.silu {
            return g.copy_from_slice(dy);
        }
        self.sequence.sum_row(s, step, g);
        for (g, dy) in g.chunks_mut(S::F32_LANES).zip(dy.chunks(S::F32_LANES)) {
            let value = s.mul_f32s(load(s, dy), silu_and_slope(s, load(s, g)).1);
            store(s, g, value);
        }
    }

    #[inline(always)]
    fn single<S: Simd>(&mut self, s: S, step: usize) {
        self.gradient_of_sum(s, step);
        let (sequence, channels) = (self.sequence, self.dx.cols());
        let g = &self.ring[self.slot(step)];
        let (dweight, dbias) = self.dtaps.split_at_mut(sequence.width * channels);
        add_row(s, g, dbias);
        for back in 0..=sequence.reach(step) {
            if let Some(x) = sequence.input(step, back) {
                let k = sequence.width - 1 - back;
                add_product(s, g, x, &mut dweight[k * channels..(k + 1) * channels]);
            }
        }
        // SAFETY: the steps of a task are its own.
        let dx = unsafe { self.dx.part(sequence.row(step), 0, channels) };
        dx.fill(0.0);
        for ahead in 0..sequence.width.min(sequence.length - step) {
            if ahead > 0 && sequence.boundary(step + ahead) {
                break;
            }
            let weight = sequence.taps.row(sequence.width - 1 - ahead);
            add_product(s, weight, &self.ring[self.slot(step + ahead)], dx);
        }
    }

    #[inline(always)]
    fn block<S: Simd, const W: usize>(&mut self, s: S, first: usize) {
        let (sequence, channels) = (self.sequence, self.dx.cols());
        let x = sequence.seen(first);
        let dy: [&[f32]; BLOCK] = std::array::from_fn(|r| self.dy.row(sequence.row(first + r)));
        let taps: [&[f32]; W] = std::array::from_fn(|k| sequence.taps.row(k));
        let bias = sequence.taps.row(W);
        let dx: [&mut [f32]; BLOCK] = std::array::from_fn(|r| {
            // SAFETY: the steps of a task are its own, and those of a block have different rows.
            unsafe { self.dx.part(sequence.row(first + r), 0, channels) }
        });
        let later: [usize; W] = std::array::from_fn(|i| self.slot(first + BLOCK + i).start);
        let earlier: [usize; W] = std::array::from_fn(|i| self.slot(first + i).start);
        for c in (0..channels).step_by(S::F32_LANES) {
            let to = channels.min(c + S::F32_LANES);
            let weight = load_rows::<S, W>(s, &taps, c);
            let x = load_rows::<S, SEEN>(s, &x[..BLOCK + W - 1], c);
            let mut g = load_rows::<S, SEEN>(s, &dy, c);
            if sequence.silu {
                let bias = load(s, &bias[c..]);
                for r in 0..BLOCK {
                    let sum = filter(s, bias, &weight, &x[r..r + W]);
                    g[r] = s.mul_f32s(g[r], silu_and_slope(s, sum).1);
                }
            }
            for i in 0..W - 1 {
                g[BLOCK + i] = load(s, &self.ring[later[i] + c..later[i] + to]);
            }
            for i in 0..W - 1 {
                store(s, &mut self.ring[earlier[i] + c..earlier[i] + to], g[i]);
            }
            for r in 0..BLOCK {
                let mut sum = s.mul_f32s(weight[W - 1], g[r]);
                for ahead in 1..W {
                    sum = s.mul_add_f32s(weight[W - 1 - ahead], g[r + ahead], sum);
                }
                store(s, &mut dx[r][c..], sum);
            }
            for k in 0..=W {
                let dtap = &mut self.dtaps[k * channels + c..k * channels + to];
                let mut sum = load(s, dtap);
                for r in 0..BLOCK {
                    sum = match k == W {
                        true => s.add_f32s(g[r], sum),
                        false => s.mul_add_f32s(g[r], x[r + k], sum),
                    };
                }
                store(s, dtap, sum);
            }
        }
    }

    /// The gradient of the final state goes to the inputs that it holds, and the initial state gets its own.
    #[inline(always)]
    fn states<S: Simd>(&mut self, s: S) {
        let (sequence, channels) = (self.sequence, self.dx.cols());
        let history = sequence.width - 1;
        let rows = |i: usize| i * channels..(i + 1) * channels;
        if let Some(dstate) = &mut self.dinitial_state {
            dstate.fill(0.0);
            for step in 0..history.min(sequence.length) {
                if sequence.boundary(step) {
                    break;
                }
                for row in step..history {
                    let g = &self.ring[rows(step)];
                    add_product(s, sequence.taps.row(row - step), g, &mut dstate[rows(row)]);
                }
            }
        }
        let Some(gradient) = self.d_final_state else {
            return;
        };
        for back in 1..=sequence.reach(sequence.length) {
            let gradient = &gradient[rows(history - back)];
            if back > sequence.length {
                if let Some(dstate) = &mut self.dinitial_state {
                    add_row(
                        s,
                        gradient,
                        &mut dstate[rows(history + sequence.length - back)],
                    );
                }
            } else if (self.steps.0..self.steps.1).contains(&(sequence.length - back)) {
                let row = sequence.row(sequence.length - back);
                // SAFETY: the steps of a task are its own.
                add_row(s, gradient, unsafe { self.dx.part(row, 0, channels) });
            }
        }
    }
}
