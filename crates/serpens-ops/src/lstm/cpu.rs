//! The recurrence on the processor. Positions follow each other; in each, threads share the channels, whose products
//! with the state before and whose functions are one task, so that they meet once a position.

use std::mem;

use serpens_core::{Mat, MatMut};

use super::LstmDims;
use crate::elementwise::cpu::tanh_lanes;
use crate::linear;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{SMALL, for_each_task};
use crate::simd::{self, Isa, Simd, WithSimd, load, sigmoid, store};

/// A recurrence as the kernels take it.
pub type Lstm<'a> = super::Lstm<Mat<'a>, &'a [bool]>;

/// Channels of a task of the forward pass.
const CHANNELS: usize = 16;
/// Rows of a batch that are multiplied together, and vectors of columns on the way back.
const ROWS: usize = 2;
const VECTORS: usize = 4;
/// Multiplications that take as long as a value from memory.
const MULTIPLICATIONS: usize = 4;

impl<'a> Lstm<'a> {
    /// Panics unless the operands fit, and matrices of all positions have so many parts of the width.
    fn check(&self, matrices: &[([usize; 2], usize)]) {
        for (role, mat) in self.operands.iter() {
            role.assert_fits(&self.dims, mat);
        }
        let LstmDims { batch, width, .. } = self.dims;
        let (weight, states) = (self.operands.weight, [self.operands.h, self.operands.c]);
        let shape = |mat: &Mat| [mat.rows(), mat.cols()];
        assert_eq!(shape(&weight), [4 * width, width], "the weight");
        let of_row = |state: &Mat| assert_eq!(shape(state), [batch, width], "a state");
        states.iter().flatten().for_each(of_row);
        let positions = batch * self.dims.length;
        let fits = |all: &[bool]| all.len() == positions;
        assert!(self.starts.is_none_or(fits), "starts");
        for (shape, parts) in matrices {
            assert_eq!(*shape, [positions, parts * width], "a matrix");
        }
    }

    /// Whether a sequence of row `b` starts at a position.
    fn starts(&self, b: usize, t: usize) -> bool {
        let starts = |all: &[bool]| all[b * self.dims.length + t];
        self.starts.is_some_and(starts)
    }

    /// Does `task` with each of so many, which share a position.
    fn for_each_task(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let LstmDims { batch, width, .. } = self.dims;
        for_each_task(batch * 4 * width * width / MULTIPLICATIONS, tasks, task);
    }
}

/// The h, the gates i, f, g and o, and the c of every position: (batch · length, width), (batch · length, 4 · width)
/// and (batch · length, width).
///
/// # Panics
/// If the shapes disagree.
pub fn forward(lstm: &Lstm, states: [MatMut; 3]) {
    let shapes: [_; 3] = states.each_ref().map(|mat| [mat.rows(), mat.cols()]);
    lstm.check(&[(shapes[0], 1), (shapes[1], 4), (shapes[2], 1)]);
    let LstmDims {
        batch,
        length,
        width,
    } = lstm.dims;
    with_scratch((3 * batch + 1) * width, |scratch| {
        let (zeros, rest) = scratch.split_at_mut(width);
        let (mut h, rest) = rest.split_at_mut(batch * width);
        let (mut next, c) = rest.split_at_mut(batch * width);
        zeros.fill(0.0);
        enter(lstm.operands.h, h);
        enter(lstm.operands.c, c);
        let c = MatMut::new(c, batch, width, width, 0);
        for t in 0..length {
            let to = MatMut::new(&mut *next, batch, width, width, 0);
            lstm.for_each_task(width.div_ceil(CHANNELS), |task| {
                with_scratch(batch * 4 * CHANNELS, |sums| {
                    simd::dispatch(Forward {
                        lstm,
                        states: &states,
                        zeros,
                        h: Mat::new(h, batch, width, width, 0),
                        next: &to,
                        c: &c,
                        t,
                        from: task * CHANNELS,
                        to: width.min((task + 1) * CHANNELS),
                        sums,
                    });
                });
            });
            mem::swap(&mut h, &mut next);
        }
    });
}

/// The state before the first position.
fn enter(initial: Option<Mat>, state: &mut [f32]) {
    match initial {
        Some(initial) => state.copy_from_slice(initial.into_slice()),
        None => state.fill(0.0),
    }
}

/// Some channels at a position, of all rows.
struct Forward<'a> {
    lstm: &'a Lstm<'a>,
    /// h, gates and c.
    states: &'a [MatMut<'a>; 3],
    /// As many as there are channels.
    zeros: &'a [f32],
    /// h of the position before, and a place for that of this one: (batch, width).
    h: Mat<'a>,
    next: &'a MatMut<'a>,
    /// c, moved on in place: (batch, width).
    c: &'a MatMut<'a>,
    t: usize,
    from: usize,
    to: usize,
    /// Room for what h adds to the gates: (batch, 4, [`CHANNELS`]).
    sums: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let batch = self.lstm.dims.batch;
        for channel in self.from..self.to {
            for b in (0..batch).step_by(ROWS) {
                self.products(s, channel, b);
            }
        }
        for b in 0..batch {
            for from in (self.from..self.to).step_by(S::F32_LANES) {
                self.advance(s, b, from, self.to.min(from + S::F32_LANES));
            }
        }
    }
}

impl<'a> Forward<'a> {
    /// h of the position before; zeros where a sequence starts.
    #[inline(always)]
    fn before(&self, b: usize) -> &'a [f32] {
        match self.lstm.starts(b, self.t) {
            true => self.zeros,
            false => self.h.row(b),
        }
    }

    /// What h adds to the gates of a channel, of two rows.
    #[inline(always)]
    fn products<S: Simd>(&mut self, s: S, channel: usize, b: usize) {
        let LstmDims { batch, width, .. } = self.lstm.dims;
        let weight = &self.lstm.operands.weight;
        let row = |gate: usize| weight.row(gate * width + channel);
        let weights = [row(0), row(1), row(2), row(3)];
        let h = [self.before(b), self.before((b + 1).min(batch - 1))];
        let mut sums = [[s.splat_f32s(0.0); 4]; ROWS];
        let whole = width - width % S::F32_LANES;
        for c in (0..whole).step_by(S::F32_LANES) {
            // SAFETY: all are as long as there are channels. Checks take a part of the time here.
            let part = |x: &'a [f32]| unsafe { x.get_unchecked(c..c + S::F32_LANES) };
            let h = [part(h[0]), part(h[1])];
            let [i, f, g, o] = weights;
            multiply(s, h, [part(i), part(f), part(g), part(o)], &mut sums);
        }
        if whole < width {
            let (h, weights) = (h.map(|x| &x[whole..]), weights.map(|x| &x[whole..]));
            multiply(s, h, weights, &mut sums);
        }
        for (b, sums) in (b..batch).zip(sums) {
            for (gate, sum) in sums.into_iter().enumerate() {
                let at = (b * 4 + gate) * CHANNELS + channel - self.from;
                self.sums[at] = s.reduce_sum_f32s(sum);
            }
        }
    }

    /// The states of a vector of channels, or fewer, from the sums.
    #[inline(always)]
    fn advance<S: Simd>(&mut self, s: S, b: usize, from: usize, to: usize) {
        let LstmDims { length, width, .. } = self.lstm.dims;
        let at = b * length + self.t;
        let mut gates = [s.splat_f32s(0.0); 4];
        for (gate, value) in gates.iter_mut().enumerate() {
            let columns = [gate * width + from, gate * width + to];
            let given = self.lstm.operands.gates.part(at, columns[0], columns[1]);
            let sums = &self.sums[(b * 4 + gate) * CHANNELS + from - self.from..][..to - from];
            let sum = s.add_f32s(load(s, given), load(s, sums));
            *value = if gate == 2 {
                tanh_lanes(s, sum)
            } else {
                sigmoid(s, sum)
            };
            // SAFETY: these channels of this position are the task's own.
            store(
                s,
                unsafe { self.states[1].part(at, columns[0], columns[1]) },
                *value,
            );
        }
        let [i, f, g, o] = gates;
        // SAFETY: as above, and of this row.
        unsafe {
            let c = self.c.part(b, from, to);
            let before = match self.lstm.starts(b, self.t) {
                true => s.splat_f32s(0.0),
                false => load(s, c),
            };
            let cell = s.mul_add_f32s(f, before, s.mul_f32s(i, g));
            let h = s.mul_f32s(o, tanh_lanes(s, cell));
            store(s, c, cell);
            store(s, self.next.part(b, from, to), h);
            store(s, self.states[2].part(at, from, to), cell);
            store(s, self.states[0].part(at, from, to), h);
        }
    }
}

/// sums += the products of a vector of columns, or fewer, of two rows and four.
#[inline(always)]
fn multiply<S: Simd>(s: S, x: [&[f32]; ROWS], w: [&[f32]; 4], sums: &mut [[S::f32s; 4]; ROWS]) {
    let x = [load(s, x[0]), load(s, x[1])];
    for (gate, w) in w.into_iter().enumerate() {
        let w = load(s, w);
        for (sums, x) in sums.iter_mut().zip(x) {
            sums[gate] = s.mul_add_f32s(x, w, sums[gate]);
        }
    }
}

/// The state behind the last position, (batch, width), of those of all; where there are no positions the one before, or
/// zeros.
pub fn last(dims: &LstmDims, states: Mat, initial: Option<&[f32]>, last: &mut [f32]) {
    if dims.length == 0 {
        match initial {
            Some(initial) => last.copy_from_slice(initial),
            None => last.fill(0.0),
        }
        return;
    }
    for (b, last) in last.chunks_exact_mut(dims.width.max(1)).enumerate() {
        last.copy_from_slice(states.row((b + 1) * dims.length - 1));
    }
}

/// What the forward pass has found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// i, f, g and o: (batch · length, 4 · width).
    pub gates: Mat<'a>,
    /// (batch · length, width).
    pub cells: Mat<'a>,
}

/// The gradients that arrive.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'a> {
    /// At the h of all positions: (batch · length, width).
    pub y: Option<Mat<'a>>,
    /// At the last h: (batch, width).
    pub h: Option<Mat<'a>>,
    /// At the last c: (batch, width).
    pub c: Option<Mat<'a>>,
}

/// The gradients of the gates (batch · length, 4 · width), and of h and c before the first position, (batch, width).
///
/// # Panics
/// If the shapes disagree.
pub fn backward(
    lstm: &Lstm,
    found: &Found,
    arriving: &Arriving,
    dgates: MatMut,
    before: [Option<MatMut>; 2],
) {
    let LstmDims {
        batch,
        length,
        width,
    } = lstm.dims;
    let shape = |mat: &Mat| [mat.rows(), mat.cols()];
    let of_y = arriving.y.as_ref().map(|y| (shape(y), 1));
    lstm.check(&[
        (shape(&found.gates), 4),
        (shape(&found.cells), 1),
        ([dgates.rows(), dgates.cols()], 4),
        of_y.unwrap_or((shape(&found.cells), 1)),
    ]);
    let of_row = [arriving.h, arriving.c];
    let of_row = of_row.iter().flatten().map(shape);
    let to = before.iter().flatten().map(|mat| [mat.rows(), mat.cols()]);
    of_row
        .chain(to)
        .for_each(|shape| assert_eq!(shape, [batch, width], "a state"));
    let block = VECTORS * Isa::current().lanes();
    let blocks = width.div_ceil(block);
    let of_block = 4 * width * block;
    with_scratch(blocks * of_block + (9 * batch + 4) * width, |scratch| {
        let (packed, rest) = scratch.split_at_mut(blocks * of_block);
        let (zeros, rest) = rest.split_at_mut(4 * width);
        let (mut behind, rest) = rest.split_at_mut(4 * batch * width);
        let (mut here, carried) = rest.split_at_mut(4 * batch * width);
        pack(lstm.operands.weight, block, packed);
        zeros.fill(0.0);
        let carried = MatMut::new(carried, batch, width, width, 0);
        let first = usize::from(before.iter().all(Option::is_none));
        for after in (first..=length).rev() {
            let to = MatMut::new(&mut *here, batch, 4 * width, 4 * width, 0);
            lstm.for_each_task(blocks, |task| {
                simd::dispatch(Back {
                    lstm,
                    found,
                    arriving,
                    dgates: &dgates,
                    before: &before,
                    behind: Mat::new(behind, batch, 4 * width, 4 * width, 0),
                    here: &to,
                    carried: &carried,
                    packed: &packed[task * of_block..(task + 1) * of_block],
                    zeros,
                    after,
                    from: task * block,
                });
            });
            mem::swap(&mut behind, &mut here);
        }
    });
}

/// The columns of W, so many at a time: of each row those of the first block, then those of the next, zeros behind the
/// last.
fn pack(weight: Mat, block: usize, packed: &mut [f32]) {
    let (rows, width) = (weight.rows(), weight.cols());
    let packed = MatMut::dense(packed, block);
    for_each_task(rows * width, width.div_ceil(block), |task| {
        let (from, to) = (task * block, width.min((task + 1) * block));
        for row in 0..rows {
            // SAFETY: each task has its own block.
            let packed = unsafe { packed.part(task * rows + row, 0, block) };
            let (columns, behind) = packed.split_at_mut(to - from);
            columns.copy_from_slice(weight.part(row, from, to));
            behind.fill(0.0);
        }
    });
}

/// Some channels at the position before `after`, of all rows; before the first one, their states.
struct Back<'a> {
    lstm: &'a Lstm<'a>,
    found: &'a Found<'a>,
    arriving: &'a Arriving<'a>,
    dgates: &'a MatMut<'a>,
    before: &'a [Option<MatMut<'a>>; 2],
    /// The gradients of the gates of the position `after`, and a place for those of the one before: (batch, 4 · width).
    behind: Mat<'a>,
    here: &'a MatMut<'a>,
    /// The gradient that arrives at c from the position `after`: (batch, width).
    carried: &'a MatMut<'a>,
    /// (4 · width, [`VECTORS`] of lanes): the columns of W.
    packed: &'a [f32],
    /// As many as there are gates.
    zeros: &'a [f32],
    after: usize,
    from: usize,
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let LstmDims { batch, width, .. } = self.lstm.dims;
        for b in (0..batch).step_by(ROWS) {
            let rows = [
                self.gates_after(b),
                self.gates_after((b + 1).min(batch - 1)),
            ];
            let mut sums = [[s.splat_f32s(0.0); VECTORS]; ROWS];
            let weights = self.packed.chunks_exact(VECTORS * S::F32_LANES);
            for ((w, a), b) in weights.zip(rows[0]).zip(rows[1]) {
                let x = [s.splat_f32s(*a), s.splat_f32s(*b)];
                for v in 0..VECTORS {
                    let w = load(s, &w[v * S::F32_LANES..(v + 1) * S::F32_LANES]);
                    for (sums, x) in sums.iter_mut().zip(x) {
                        sums[v] = s.mul_add_f32s(x, w, sums[v]);
                    }
                }
            }
            for (b, sums) in (b..batch).zip(sums) {
                for (v, sum) in sums.into_iter().enumerate() {
                    let from = self.from + v * S::F32_LANES;
                    if from < width {
                        self.step(s, b, from, width.min(from + S::F32_LANES), sum);
                    }
                }
            }
        }
    }
}

impl<'a> Back<'a> {
    /// Whether the position after is of the same sequence.
    #[inline(always)]
    fn goes_on(&self, b: usize) -> bool {
        self.after < self.lstm.dims.length && !self.lstm.starts(b, self.after)
    }

    /// The gradients of the gates of the position after.
    #[inline(always)]
    fn gates_after(&self, b: usize) -> &'a [f32] {
        match self.goes_on(b) {
            true => self.behind.row(b),
            false => self.zeros,
        }
    }

    /// A vector of channels, or fewer, to whose h the position after gives `sum`.
    #[inline(always)]
    fn step<S: Simd>(&self, s: S, b: usize, from: usize, to: usize, sum: S::f32s) {
        let LstmDims { length, width, .. } = self.lstm.dims;
        let (zero, one) = (s.splat_f32s(0.0), s.splat_f32s(1.0));
        let part = |mat: &Mat, row| load(s, mat.part(row, from, to));
        // SAFETY: these channels of this row are the task's own.
        let carried = unsafe { self.carried.part(b, from, to) };
        let (mut dh, mut dc) = (sum, zero);
        if self.goes_on(b) {
            dc = load(s, carried);
        } else if self.after == length {
            dh = self.arriving.h.as_ref().map_or(zero, |dh| part(dh, b));
            dc = self.arriving.c.as_ref().map_or(zero, |dc| part(dc, b));
        }
        let Some(t) = self.after.checked_sub(1) else {
            for (state, value) in self.before.iter().zip([dh, dc]) {
                if let Some(state) = state {
                    // SAFETY: as above.
                    store(s, unsafe { state.part(b, from, to) }, value);
                }
            }
            return;
        };
        let at = b * length + t;
        if let Some(dy) = &self.arriving.y {
            dh = s.add_f32s(dh, part(dy, at));
        }
        let of = |gate: usize| (gate * width + from, gate * width + to);
        let gate = |gate| load(s, self.found.gates.part(at, of(gate).0, of(gate).1));
        let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
        let through = tanh_lanes(s, part(&self.found.cells, at));
        let rest = s.sub_f32s(one, s.mul_f32s(through, through));
        let dc = s.mul_add_f32s(s.mul_f32s(dh, o), rest, dc);
        let before = match (self.lstm.starts(b, t), t, &self.lstm.operands.c) {
            (true, ..) | (false, 0, None) => zero,
            (false, 0, Some(initial)) => part(initial, b),
            (false, ..) => part(&self.found.cells, at - 1),
        };
        let slope = |x| s.mul_f32s(x, s.sub_f32s(one, x));
        let gradients = [
            s.mul_f32s(s.mul_f32s(dc, g), slope(i)),
            s.mul_f32s(s.mul_f32s(dc, before), slope(f)),
            s.mul_f32s(s.mul_f32s(dc, i), s.sub_f32s(one, s.mul_f32s(g, g))),
            s.mul_f32s(s.mul_f32s(dh, through), slope(o)),
        ];
        for (gate, gradient) in gradients.into_iter().enumerate() {
            let (from, to) = of(gate);
            // SAFETY: as above, of this position or row.
            unsafe {
                store(s, self.dgates.part(at, from, to), gradient);
                store(s, self.here.part(b, from, to), gradient);
            }
        }
        store(s, carried, s.mul_f32s(dc, f));
    }
}

/// The gradient of W, (4 · width, width), from those of the gates; y has the h of all positions.
///
/// # Panics
/// If the shapes disagree.
pub fn backward_weight(lstm: &Lstm, y: Mat, dgates: Mat, dw: &mut [f32]) {
    let LstmDims { length, width, .. } = lstm.dims;
    let rows = y.rows();
    lstm.check(&[([rows, y.cols()], 1), ([dgates.rows(), dgates.cols()], 4)]);
    // The h before each position.
    with_scratch(rows * width, |states| {
        let to = MatMut::new(states, rows, width, width, 0);
        let block = (SMALL / width.max(1)).max(1);
        for_each_task(rows * width, rows.div_ceil(block), |task| {
            for at in task * block..rows.min((task + 1) * block) {
                let (b, t) = (at / length, at % length);
                // SAFETY: each task has its own rows.
                let to = unsafe { to.part(at, 0, width) };
                match (lstm.starts(b, t), t, &lstm.operands.h) {
                    (true, ..) | (false, 0, None) => to.fill(0.0),
                    (false, 0, Some(initial)) => to.copy_from_slice(initial.row(b)),
                    (false, ..) => to.copy_from_slice(y.row(at - 1)),
                }
            }
        });
        let states = Mat::new(states, rows, width, width, 0);
        linear::cpu::backward_weight(dgates, states, dw, false);
    });
}
