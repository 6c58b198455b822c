//! The forward scan: one task runs the steps of a few tiles, chunk by chunk.

use rayon::prelude::*;
use serpens_core::{Mat, MatMut};

use super::arena::{Arena, room};
use super::decay::{Rates, Transition, for_range, range_of};
use super::lanes::{
    Ahead, Group, Tile, add_real_product, for_numbers, gate, mul_add, numbers, pick, put, scaled,
    set_numbers, splat,
};
use super::plan::{CHUNK, Chunk, ScanPlan, Task};
use super::{Dims, Scan, ScanOperands, segments};
use crate::shared::scratch::with_scratch;
use crate::simd::{Isa, Simd, WithSimd, store};

/// Numbers of the state that one pass over a chunk handles: they and their A stay in registers with AVX-512, and the
/// loop over them is unrolled.
const WIDE: usize = 8;

/// Runs all tasks. `out` is (batch·length, channels).
pub(super) fn run<const P: usize, const HELD: bool>(
    isa: Isa,
    scan: &Scan,
    out: &MatMut,
    last_state: Option<&mut [f32]>,
    checkpoints: Option<&mut [f32]>,
) {
    let dims = &scan.dims;
    let plan = ScanPlan::new(dims, isa.lanes());
    let row = dims.channels * P * dims.state;
    let last_state = last_state.map(|last| MatMut::dense(last, row));
    let checkpoints = checkpoints.map(|saved| MatMut::dense(saved, row));
    let starts_len = if plan.segments > 1 {
        dims.batch * plan.segments * row
    } else {
        0
    };
    with_scratch(starts_len, |segment_states| {
        if plan.segments > 1 {
            segments::initial_states::<P, HELD>(isa, scan, &plan, segment_states);
        }
        let initial = if plan.segments > 1 {
            Some(&*segment_states)
        } else {
            scan.operands.initial_state.map(Mat::into_slice)
        };
        plan.tasks.par_iter().for_each(|task| {
            let room = scratch_len::<P>(dims, &plan, isa.lanes());
            with_scratch(room, |scratch| {
                isa.run(Forward::<P, HELD> {
                    scan,
                    task,
                    initial: initial.map(|states| {
                        let first = task.segment * row;
                        &states[first..first + row]
                    }),
                    out,
                    last_state: last_state
                        .as_ref()
                        .filter(|_| task.to == dims.length && task.from < task.to),
                    checkpoints: checkpoints.as_ref(),
                    scratch,
                });
            });
        });
    });
}

fn scratch_len<const P: usize>(dims: &Dims, plan: &ScanPlan, lanes: usize) -> usize {
    2 * room(plan.tiles * P * dims.state * lanes) + 3 * room(CHUNK * lanes)
}

struct Forward<'a, 'b, const P: usize, const HELD: bool> {
    scan: &'a Scan<'a>,
    task: &'a Task,
    /// (channels, P·N), the state before the task's first step.
    initial: Option<&'a [f32]>,
    out: &'a MatMut<'b>,
    /// (batch, channels·P·N), where the task is the last in time.
    last_state: Option<&'a MatMut<'b>>,
    /// (batch·chunks, channels·P·N), each tile's values as P·N rows of its channels.
    checkpoints: Option<&'a MatMut<'b>>,
    scratch: &'a mut [f32],
}

/// δ, δu (u where it is held) and the sum over the states for the steps of a chunk.
struct Steps<'a, V> {
    delta: &'a mut [V; CHUNK],
    input: &'a mut [V; CHUNK],
    y: &'a mut [V; CHUNK],
}

impl<const P: usize, const HELD: bool> WithSimd for Forward<'_, '_, P, HELD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (task, size) = (self.task, P * self.scan.dims.state);
        let tiles = task.channels.div_ceil(S::F32_LANES);
        let tile = |i| Tile::new(task.channel, task.channels, S::F32_LANES, i);
        let mut arena = Arena(std::mem::take(&mut self.scratch));
        let a = arena.vectors::<S::f32s>(tiles * size);
        let h = arena.vectors::<S::f32s>(tiles * size);
        let mut steps = Steps {
            delta: arena.steps(),
            input: arena.steps(),
            y: arena.steps(),
        };
        let of_tiles = |i| i * size..(i + 1) * size;
        for i in 0..tiles {
            let x = &self.scan.operands;
            tile(i).load_a::<S>(self.scan.dims.state, x, &mut a[of_tiles(i)]);
            let h = &mut h[of_tiles(i)];
            match self.initial {
                Some(initial) => tile(i).load_states::<S>(size, initial, h),
                None => h.fill(s.splat_f32s(0.0)),
            }
        }
        for from in (task.from..task.to).step_by(CHUNK) {
            let chunk = Chunk::new(self.scan, task.batch, from, (from + CHUNK).min(task.to));
            for i in 0..tiles {
                let (a, h) = (&a[of_tiles(i)], &mut h[of_tiles(i)]);
                self.save(s, tile(i), from, h);
                self.run(s, &chunk, tile(i), a, h, &mut steps);
            }
        }
        if let Some(last_state) = self.last_state {
            for i in 0..tiles {
                let (first, end) = tile(i).states(size);
                // SAFETY: this task alone owns these channels of this sequence.
                let last = unsafe { last_state.part(task.batch, first, end) };
                tile(i).store_states::<S>(size, &h[of_tiles(i)], last);
            }
        }
    }
}

impl<const P: usize, const HELD: bool> Forward<'_, '_, P, HELD> {
    /// Saves the state of a tile before the chunk from `from` on, where that is asked for.
    #[inline(always)]
    fn save<S: Simd>(&self, s: S, tile: Tile, from: usize, h: &[S::f32s]) {
        let Some(checkpoints) = self.checkpoints else {
            return;
        };
        let row = self.task.batch * self.scan.dims.chunks() + from / CHUNK;
        let (first, end) = tile.states(h.len());
        // SAFETY: this task alone owns these channels of this chunk.
        let saved = unsafe { checkpoints.part(row, first, end) };
        for (saved, &h) in saved.chunks_exact_mut(tile.width).zip(h) {
            store(s, saved, h);
        }
    }

    /// Runs a tile through a chunk.
    #[inline(always)]
    fn run<S: Simd>(
        &self,
        s: S,
        chunk: &Chunk,
        tile: Tile,
        a: &[S::f32s],
        h: &mut [S::f32s],
        steps: &mut Steps<S::f32s>,
    ) {
        let (scan, x, state) = (self.scan, &self.scan.operands, self.scan.dims.state);
        let group = Group::new(&scan.dims, x, self.task.group);
        tile.load_steps(s, scan, chunk, steps.delta, steps.input, None);
        let range = range_of(s, &steps.delta[..chunk.steps], &a[..state]);
        steps.y.fill(s.splat_f32s(0.0));
        for_numbers!(state, WIDE, |n, W| {
            let ahead = (n == 0).then(|| {
                let reads = [Some(x.u), Some(x.delta), x.z];
                Ahead::new(tile, &reads, &[Some(self.out)], scan.reverse)
            });
            for_range!(range, |RANGE| advance::<S, P, W, RANGE, HELD>(
                s, chunk, group, n, a, h, steps, ahead
            ));
        });
        finish::<S, P>(s, x, chunk, tile, steps.y, self.out);
    }
}

/// Runs the recurrence of `W` numbers from `n` on over a chunk, and adds Re(C h) to y.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are the kernel's registers and rows"
)]
fn advance<S: Simd, const P: usize, const W: usize, const RANGE: u8, const HELD: bool>(
    s: S,
    chunk: &Chunk,
    group: Group,
    n: usize,
    a: &[S::f32s],
    h: &mut [S::f32s],
    steps: &mut Steps<S::f32s>,
    ahead: Option<Ahead>,
) {
    let rates = Rates::new::<S, P, HELD>(s, &numbers(a, n));
    let mut state = numbers::<_, P, W>(h, n);
    for i in 0..chunk.steps {
        if chunk.resets[i] {
            state = [[s.splat_f32s(0.0); W]; P];
        }
        let row = chunk.row(i);
        if let Some(ahead) = &ahead {
            ahead.touch(row);
        }
        let (b, c) = (
            numbers::<_, P, W>(group.b(row), n),
            numbers::<_, P, W>(group.c(row), n),
        );
        let (delta, input) = (steps.delta[i], steps.input[i]);
        // Two sums, so that one addition need not wait for the one before.
        let mut sums = [steps.y[i], s.splat_f32s(0.0)];
        for j in 0..W {
            let step = Transition::<_, P>::new::<S, W, RANGE, HELD>(s, delta, &rates, j);
            let taken = scaled(s, step.weigh::<S, HELD>(s, input), splat(s, &b, j));
            let next = mul_add(s, step.decay, pick(&state, j), taken);
            put(next, &mut state, j);
            sums[j % 2] = add_real_product(s, sums[j % 2], splat(s, &c, j), next);
        }
        steps.y[i] = s.add_f32s(sums[0], sums[1]);
    }
    set_numbers(h, n, state);
}

/// out = (y + D u) silu(z); y counts twice where each state stands for a conjugate pair.
#[inline(always)]
fn finish<S: Simd, const P: usize>(
    s: S,
    x: &ScanOperands<Mat>,
    chunk: &Chunk,
    tile: Tile,
    y: &[S::f32s; CHUNK],
    out: &MatMut,
) {
    let d = tile.of_vector(s, x.d);
    for i in 0..chunk.steps {
        let row = chunk.row(i);
        let mut y = s.mul_f32s(y[i], s.splat_f32s(P as f32));
        if x.d.is_some() {
            y = s.mul_add_f32s(d, tile.of(s, x.u, row), y);
        }
        if x.z.is_some() {
            y = s.mul_f32s(y, gate(s, x, tile, row));
        }
        // SAFETY: this task alone owns these channels of these steps.
        let out = unsafe { out.part(row, tile.channel, tile.channel + tile.width) };
        store(s, out, y);
    }
}
