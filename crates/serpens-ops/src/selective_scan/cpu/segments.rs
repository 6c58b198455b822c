//! Segments of time: each one's last state for a zero initial state, and the product of its decays, give the state
//! between segments in order; then all segments run at once. Likewise λ, the gradient of the state, backwards.

use rayon::prelude::*;
use serpens_core::{Mat, MatMut};

use super::Scan;
use super::arena::{Arena, room};
use super::decay::{Rates, Transition, decay, for_range, range_of};
use super::lanes::{
    Group, Tile, add_conj, conj_mul, for_numbers, gate, mul_add, numbers, pick, put, scaled,
    set_numbers, splat,
};
use super::plan::{CHUNK, Chunk, ScanPlan, Task};
use crate::shared::scratch::with_scratch;
use crate::simd::{Isa, Simd, WithSimd};

/// Writes the state before each segment to `states` (batch, segments, channels, P·N).
pub(super) fn initial_states<const P: usize, const HELD: bool>(
    isa: Isa,
    scan: &Scan,
    plan: &ScanPlan,
    states: &mut [f32],
) {
    let initial = scan.operands.initial_state.map(Mat::into_slice);
    through_segments::<P, HELD>(isa, scan, plan, None, initial, states);
}

/// Writes λ carried into each segment from the one after it to `carries` (batch, segments, channels, P·N).
pub(super) fn final_gradients<const P: usize>(
    isa: Isa,
    scan: &Scan,
    plan: &ScanPlan,
    dout: Mat,
    dlast: Option<&[f32]>,
    carries: &mut [f32],
) {
    through_segments::<P, false>(isa, scan, plan, Some(dout), dlast, carries);
}

fn through_segments<const P: usize, const HELD: bool>(
    isa: Isa,
    scan: &Scan,
    plan: &ScanPlan,
    dout: Option<Mat>,
    outer: Option<&[f32]>,
    states: &mut [f32],
) {
    let dims = &scan.dims;
    let row = dims.channels * P * dims.state;
    with_scratch(2 * states.len(), |summaries| {
        let summaries = MatMut::dense(summaries, 2 * row);
        plan.tasks.par_iter().for_each(|task| {
            let lanes = isa.lanes();
            let size = room(P * dims.state * lanes);
            with_scratch(3 * size + 2 * room(CHUNK * lanes), |scratch| {
                isa.run(Summary::<P, HELD> {
                    scan,
                    task,
                    dout,
                    summaries: &summaries,
                    scratch,
                });
            });
        });
        let mut summaries = summaries;
        for batch in 0..dims.batch {
            let outer = outer.map(|outer| &outer[batch * row..(batch + 1) * row]);
            let mut index =
                if dout.is_some() { plan.segments - 1 } else { 0 } + batch * plan.segments;
            match outer {
                Some(outer) => states[index * row..(index + 1) * row].copy_from_slice(outer),
                None => states[index * row..(index + 1) * row].fill(0.0),
            }
            for _ in 1..plan.segments {
                let (sum, product) = summaries.row(index).split_at(row);
                let next = if dout.is_some() { index - 1 } else { index + 1 };
                let current = &states[index * row..(index + 1) * row];
                let mut carried = current.to_vec();
                combine::<P>(dims.state, &mut carried, sum, product);
                states[next * row..(next + 1) * row].copy_from_slice(&carried);
                index = next;
            }
        }
    });
}

/// state = product · state + sum, for numbers with P parts, rows of P·N.
fn combine<const P: usize>(n: usize, state: &mut [f32], sum: &[f32], product: &[f32]) {
    let size = P * n;
    let rows = state
        .chunks_exact_mut(size)
        .zip(sum.chunks_exact(size))
        .zip(product.chunks_exact(size));
    for ((state, sum), product) in rows {
        for re in 0..n {
            let im = re + n * (P - 1);
            // A product of zero comes from a reset, which keeps nothing, not even a NaN.
            if product[re] == 0.0 && product[im] == 0.0 {
                (state[re], state[im]) = (sum[re], sum[im]);
            } else if P == 1 {
                state[re] = product[re].mul_add(state[re], sum[re]);
            } else {
                let (x, y) = (state[re], state[im]);
                state[re] = product[re] * x - product[im] * y + sum[re];
                state[im] = product[re] * y + product[im] * x + sum[im];
            }
        }
    }
}

struct Summary<'a, 'b, const P: usize, const HELD: bool> {
    scan: &'a Scan<'a>,
    task: &'a Task,
    /// (batch·length, channels): given when λ is asked for.
    dout: Option<Mat<'a>>,
    /// (batch·segments, 2·channels·P·N): the sum, then the product.
    summaries: &'a MatMut<'b>,
    scratch: &'a mut [f32],
}

impl<const P: usize, const HELD: bool> WithSimd for Summary<'_, '_, P, HELD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (dims, task) = (&self.scan.dims, self.task);
        let size = P * dims.state;
        let mut arena = Arena(std::mem::take(&mut self.scratch));
        let a = arena.vectors::<S::f32s>(size);
        let sum = arena.vectors::<S::f32s>(size);
        let product = arena.vectors::<S::f32s>(size);
        let (delta, weight) = (arena.steps(), arena.steps());
        for i in 0..task.channels.div_ceil(S::F32_LANES) {
            let tile = Tile::new(task.channel, task.channels, S::F32_LANES, i);
            tile.load_a::<S>(dims.state, &self.scan.operands, a);
            sum.fill(s.splat_f32s(0.0));
            product[..dims.state].fill(s.splat_f32s(1.0));
            product[dims.state..].fill(s.splat_f32s(0.0));
            let chunks = (task.to - task.from).div_ceil(CHUNK);
            for index in 0..chunks {
                let back = self.dout.is_some();
                let index = if back { chunks - 1 - index } else { index };
                let from = task.from + index * CHUNK;
                let to = (from + CHUNK).min(task.to);
                let chunk = Chunk::new(self.scan, task.batch, from, to);
                self.run(s, &chunk, tile, a, [sum, product], [delta, weight]);
            }
            for (values, offset) in [(&*sum, 0), (&*product, dims.channels * size)] {
                let (first, end) = tile.states(size);
                let (first, end) = (offset + first, offset + end);
                // SAFETY: this task alone owns these channels of this segment.
                let to = unsafe { self.summaries.part(task.segment, first, end) };
                tile.store_states::<S>(size, values, to);
            }
        }
    }
}

impl<const P: usize, const HELD: bool> Summary<'_, '_, P, HELD> {
    /// Takes a tile's sum and product through a chunk.
    #[inline(always)]
    fn run<S: Simd>(
        &self,
        s: S,
        chunk: &Chunk,
        tile: Tile,
        a: &[S::f32s],
        [sum, product]: [&mut [S::f32s]; 2],
        [delta, weight]: [&mut [S::f32s; CHUNK]; 2],
    ) {
        let (scan, x, state) = (self.scan, &self.scan.operands, self.scan.dims.state);
        let group = Group::new(&scan.dims, x, self.task.group);
        tile.load_steps(s, scan, chunk, delta, weight, None);
        let range = range_of(s, &delta[..chunk.steps], &a[..state]);
        if let Some(dout) = self.dout {
            for (i, weight) in weight.iter_mut().enumerate().take(chunk.steps) {
                let row = chunk.row(i);
                let g = s.mul_f32s(tile.of(s, dout, row), gate(s, x, tile, row));
                *weight = s.mul_f32s(g, s.splat_f32s(P as f32));
            }
            for_numbers!(state, 4, |n, W| for_range!(range, |RANGE| {
                backward::<S, P, W, RANGE>(s, chunk, group, n, a, sum, product, delta, weight)
            }));
        } else {
            for_numbers!(state, 4, |n, W| for_range!(range, |RANGE| {
                forward::<S, P, W, RANGE, HELD>(s, chunk, group, n, a, sum, product, delta, weight)
            }));
        }
    }
}

/// sum = decay · sum + weight · B and product = decay · product over a chunk.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are the kernel's registers and rows"
)]
fn forward<S: Simd, const P: usize, const W: usize, const RANGE: u8, const HELD: bool>(
    s: S,
    chunk: &Chunk,
    group: Group,
    n: usize,
    a: &[S::f32s],
    sum: &mut [S::f32s],
    product: &mut [S::f32s],
    delta: &[S::f32s; CHUNK],
    weight: &[S::f32s; CHUNK],
) {
    let zero = [[s.splat_f32s(0.0); W]; P];
    let rates = Rates::new::<S, P, HELD>(s, &numbers(a, n));
    let (mut sums, mut products) = (numbers::<_, P, W>(sum, n), numbers::<_, P, W>(product, n));
    for i in 0..chunk.steps {
        if chunk.resets[i] {
            (sums, products) = (zero, zero);
        }
        let b = numbers::<_, P, W>(group.b(chunk.row(i)), n);
        for j in 0..W {
            let step = Transition::<_, P>::new::<S, W, RANGE, HELD>(s, delta[i], &rates, j);
            let taken = scaled(s, step.weigh::<S, HELD>(s, weight[i]), splat(s, &b, j));
            put(mul_add(s, step.decay, pick(&sums, j), taken), &mut sums, j);
            put(
                mul_add(s, step.decay, pick(&products, j), [s.splat_f32s(0.0); P]),
                &mut products,
                j,
            );
        }
    }
    set_numbers(sum, n, sums);
    set_numbers(product, n, products);
}

/// sum = conj(decay) · (sum + weight · conj(C)) and product = conj(decay) · product, from a chunk's last step to its
/// first.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are the kernel's registers and rows"
)]
fn backward<S: Simd, const P: usize, const W: usize, const RANGE: u8>(
    s: S,
    chunk: &Chunk,
    group: Group,
    n: usize,
    a: &[S::f32s],
    sum: &mut [S::f32s],
    product: &mut [S::f32s],
    delta: &[S::f32s; CHUNK],
    weight: &[S::f32s; CHUNK],
) {
    let zero = [[s.splat_f32s(0.0); W]; P];
    let rates = Rates::new::<S, P, false>(s, &numbers(a, n));
    let (mut sums, mut products) = (numbers::<_, P, W>(sum, n), numbers::<_, P, W>(product, n));
    for i in (0..chunk.steps).rev() {
        let c = numbers::<_, P, W>(group.c(chunk.row(i)), n);
        for j in 0..W {
            let decay = decay::<S, P, W, RANGE>(s, delta[i], &rates, j);
            let lambda = add_conj(s, pick(&sums, j), weight[i], splat(s, &c, j));
            put(conj_mul(s, decay, lambda), &mut sums, j);
            put(conj_mul(s, decay, pick(&products, j)), &mut products, j);
        }
        if chunk.resets[i] {
            (sums, products) = (zero, zero);
        }
    }
    set_numbers(sum, n, sums);
    set_numbers(product, n, products);
}
