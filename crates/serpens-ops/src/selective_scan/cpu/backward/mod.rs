//! The backward scan. Each chunk is replayed from its checkpoint, a few numbers of the state at a time; then λ, the
//! gradient of the state, runs through it from its last step to its first:
//!
//! ```text
//! λ_t = conj(C_t) g_t + conj(exp(δ_(t+1) A)) λ_(t+1)         g = dL/dy, twice that for complex states
//! ```
//!
//! An input that is held has in place of δ a weight of every number's own, w = (exp(δ A) - 1) / A.

mod chunk;

use rayon::prelude::*;
use serpens_core::{Mat, MatMut};

use super::arena::{Arena, room};
use super::decay::for_range;
use super::lanes::{Ahead, Group, Tile, for_numbers, numbers};
use super::plan::{CHUNK, Chunk, ROUND, ScanPlan, Task};
use super::{Dims, Scan, ScanOperands, segments};
use crate::shared::scratch::with_scratch;
use crate::simd::{Isa, Simd, WithSimd, range};
use chunk::{
    Pass, STEP_VECTORS, Steps, begin, finish, load_checkpoint, pass_vectors, reduce, replay,
    retreat,
};

/// Numbers of the state that one pass over a chunk handles: what it keeps per step then fits the first-level cache.
const WIDE: usize = 4;

/// Runs all tasks in rounds of [`ROUND`] steps, folding the sums over channels after each, then those over the batch.
pub(super) fn run<const P: usize, const HELD: bool>(
    isa: Isa,
    scan: &Scan,
    checkpoints: &[f32],
    dout: Mat,
    dlast: Option<&[f32]>,
    grads: ScanOperands<MatMut>,
) {
    let dims = &scan.dims;
    let plan = ScanPlan::new(dims, isa.lanes());
    let (size, segments) = (P * dims.state, dims.batch * plan.segments);
    let row = dims.channels * size;
    let group_len = 2 * size * ROUND.min(dims.length);
    let lengths = [
        segments * row,
        segments * row,
        segments * dims.channels,
        segments * dims.channels,
        plan.tasks.len() * group_len,
    ];
    with_scratch(lengths.into_iter().map(room).sum(), |buffer| {
        let mut arena = Arena(buffer);
        let [carry, da, dd, dbias, dgroup] = lengths.map(|len| arena.take(len));
        if plan.segments > 1 {
            segments::final_gradients::<P>(isa, scan, &plan, dout, dlast, carry);
        } else if let Some(dlast) = dlast {
            carry.copy_from_slice(dlast);
        } else {
            carry.fill(0.0);
        }
        for sums in [&mut *da, dd, dbias] {
            sums.fill(0.0);
        }
        let sums = Sums {
            grads,
            carry: MatMut::dense(carry, row),
            da: MatMut::dense(da, row),
            dd: MatMut::dense(dd, dims.channels),
            dbias: MatMut::dense(dbias, dims.channels),
            dgroup: MatMut::dense(dgroup, group_len),
        };
        let lengths = plan.tasks.iter().map(|task| task.to - task.from);
        let longest = lengths.max().unwrap_or(0);
        for round in (0..longest.div_ceil(ROUND)).rev() {
            run_round::<P, HELD>(
                isa,
                scan,
                &plan,
                round,
                Mat::dense(checkpoints, row),
                dout,
                &sums,
            );
            fold_groups(scan, &plan, round, &sums);
        }
        fold_channels(dims, &plan, sums);
    });
}

/// Runs the tasks' steps of a round.
fn run_round<const P: usize, const HELD: bool>(
    isa: Isa,
    scan: &Scan,
    plan: &ScanPlan,
    round: usize,
    checkpoints: Mat,
    dout: Mat,
    sums: &Sums,
) {
    plan.tasks.par_iter().enumerate().for_each(|(index, task)| {
        let (from, to) = round_of(task, round);
        let room = scratch_len::<P, HELD>(&scan.dims, plan, isa.lanes());
        with_scratch(room, |scratch| {
            isa.run(Backward::<P, HELD> {
                scan,
                task,
                index,
                from,
                to,
                checkpoints,
                dout,
                sums,
                scratch,
            });
        });
    });
}

/// The steps of a task in a round; rounds count from the task's first step.
fn round_of(task: &Task, round: usize) -> (usize, usize) {
    let from = (task.from + round * ROUND).min(task.to);
    (from, (from + ROUND).min(task.to))
}

/// dB and dC of a round: for every group and segment, the sum over its tasks in order.
fn fold_groups(scan: &Scan, plan: &ScanPlan, round: usize, sums: &Sums) {
    let size = scan.dims.width();
    plan.tasks
        .par_chunks(plan.per_group)
        .enumerate()
        .for_each(|(index, tasks)| {
            let task = &tasks[0];
            let (from, to) = round_of(task, round);
            for step in from..to {
                let row = Chunk::new(scan, task.batch, step, step + 1).row(0);
                let column = task.group * size;
                // SAFETY: only this group and segment writes these columns of these rows.
                let (db, dc) = unsafe {
                    (
                        sums.grads.b.part(row, column, column + size),
                        sums.grads.c.part(row, column, column + size),
                    )
                };
                for i in 0..tasks.len() {
                    let first = (step - from) * 2 * size;
                    // SAFETY: the tasks have ended; nothing else reads their sums.
                    let sums = unsafe {
                        sums.dgroup
                            .part(index * plan.per_group + i, first, first + 2 * size)
                    };
                    if i == 0 {
                        db.copy_from_slice(&sums[..size]);
                        dc.copy_from_slice(&sums[size..]);
                    } else {
                        add(db, &sums[..size]);
                        add(dc, &sums[size..]);
                    }
                }
            }
        });
}

fn add(sum: &mut [f32], x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}

/// dA, dD and dbias, the sums over batch and segments in order, and the gradient of the initial state.
fn fold_channels(dims: &Dims, plan: &ScanPlan, sums: Sums) {
    let (n, size) = (dims.state, dims.width());
    let column = |sums: &MatMut, column: usize| {
        let mut total = 0.0;
        for segment in 0..sums.rows() {
            // SAFETY: the tasks have ended; nothing writes it.
            total += unsafe { sums.part(segment, column, column + 1) }[0];
        }
        total
    };
    let fill = |da: MatMut, part: usize| {
        let rows = da.into_slice().par_chunks_mut(n).enumerate();
        rows.for_each(|(channel, da)| {
            for (k, da) in da.iter_mut().enumerate() {
                *da = column(&sums.da, channel * size + part * n + k);
            }
        });
    };
    let ScanOperands {
        a,
        a_im,
        d,
        delta_bias,
        initial_state,
        ..
    } = sums.grads;
    fill(a, 0);
    if let Some(a_im) = a_im {
        fill(a_im, 1);
    }
    for (to, from) in [(d, &sums.dd), (delta_bias, &sums.dbias)] {
        let to = to.map(MatMut::into_slice).into_iter().flatten();
        for (channel, to) in to.enumerate() {
            *to = column(from, channel);
        }
    }
    if let Some(dinitial) = initial_state {
        let (row, mut carry) = (dims.channels * size, sums.carry);
        let sequences = dinitial.into_slice().chunks_exact_mut(row).enumerate();
        for (batch, dinitial) in sequences {
            dinitial.copy_from_slice(carry.row(batch * plan.segments));
        }
    }
}

/// What the tasks write, each its own values. Segments are those of all sequences.
struct Sums<'a> {
    /// Where the gradients go: those of u, Δ and z at once, the rest from the sums below.
    grads: ScanOperands<MatMut<'a>>,
    /// (segments, channels·P·N): λ carried from the round after to the round before.
    carry: MatMut<'a>,
    /// (segments, channels·P·N).
    da: MatMut<'a>,
    /// (segments, channels).
    dd: MatMut<'a>,
    dbias: MatMut<'a>,
    /// (tasks, steps of a round · (dB, dC) · P·N).
    dgroup: MatMut<'a>,
}

struct Backward<'a, 'b, const P: usize, const HELD: bool> {
    scan: &'a Scan<'a>,
    task: &'a Task,
    /// The task's row of `dgroup`.
    index: usize,
    from: usize,
    to: usize,
    checkpoints: Mat<'a>,
    dout: Mat<'a>,
    sums: &'a Sums<'b>,
    scratch: &'a mut [f32],
}

fn scratch_len<const P: usize, const HELD: bool>(
    dims: &Dims,
    plan: &ScanPlan,
    lanes: usize,
) -> usize {
    let states = room(plan.tiles * P * dims.state * lanes);
    3 * states + room(plan.tiles * STEP_VECTORS * lanes) + room(pass_vectors(P, HELD) * lanes)
}

/// What a task keeps of its tiles, one after another, from chunk to chunk.
struct Tiles<'a, V> {
    /// P·N vectors each.
    a: &'a mut [V],
    carry: &'a mut [V],
    da: &'a mut [V],
    steps: &'a mut [V],
}

impl<const P: usize, const HELD: bool> WithSimd for Backward<'_, '_, P, HELD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (scan, task) = (self.scan, self.task);
        let size = P * scan.dims.state;
        let count = task.channels.div_ceil(S::F32_LANES);
        let mut arena = Arena(std::mem::take(&mut self.scratch));
        let mut tiles = Tiles {
            a: arena.vectors::<S::f32s>(count * size),
            carry: arena.vectors(count * size),
            da: arena.vectors(count * size),
            steps: arena.vectors(count * STEP_VECTORS),
        };
        let pass = arena.vectors::<S::f32s>(pass_vectors(P, HELD));
        let (first, last) = (task.channel * size, (task.channel + task.channels) * size);
        // SAFETY: this task alone owns these channels of this segment.
        let carry_out = unsafe { self.sums.carry.part(task.segment, first, last) };
        // SAFETY: as above.
        let da_out = unsafe { self.sums.da.part(task.segment, first, last) };
        for i in 0..count {
            let values = i * size..(i + 1) * size;
            let tile = Tile::new(0, task.channels, S::F32_LANES, i);
            tile.load_states::<S>(size, carry_out, &mut tiles.carry[values.clone()]);
            tile.load_states::<S>(size, da_out, &mut tiles.da[values.clone()]);
            let a = &mut tiles.a[values];
            self.tile::<S>(i)
                .load_a::<S>(scan.dims.state, &scan.operands, a);
        }
        for from in (self.from..self.to).step_by(CHUNK).rev() {
            self.run(s, from, count, &mut tiles, pass);
        }
        for i in 0..count {
            let values = i * size..(i + 1) * size;
            let tile = Tile::new(0, task.channels, S::F32_LANES, i);
            let (first, end) = tile.states(size);
            tile.store_states::<S>(
                size,
                &tiles.carry[values.clone()],
                &mut carry_out[first..end],
            );
            tile.store_states::<S>(size, &tiles.da[values], &mut da_out[first..end]);
        }
    }
}

impl<const P: usize, const HELD: bool> Backward<'_, '_, P, HELD> {
    /// The task's tile `i`.
    #[inline(always)]
    fn tile<S: Simd>(&self, i: usize) -> Tile {
        Tile::new(self.task.channel, self.task.channels, S::F32_LANES, i)
    }

    /// Runs all tiles back through the chunk from `from` on.
    #[inline(always)]
    fn run<S: Simd>(
        &self,
        s: S,
        from: usize,
        count: usize,
        tiles: &mut Tiles<S::f32s>,
        pass: &mut [S::f32s],
    ) {
        let (scan, task, x) = (self.scan, self.task, &self.scan.operands);
        let (state, size) = (scan.dims.state, P * scan.dims.state);
        let group = Group::new(&scan.dims, x, task.group);
        let chunk = Chunk::new(scan, task.batch, from, (from + CHUNK).min(self.to));
        let mut range = range::NEAR;
        for i in 0..count {
            let mut steps = Steps::of(&mut tiles.steps[i * STEP_VECTORS..][..STEP_VECTORS]);
            let (tile, a) = (self.tile::<S>(i), &tiles.a[i * size..][..state]);
            let own = begin::<S, P>(s, scan, self.dout, &chunk, tile, a, &mut steps);
            range = range.max(own);
        }
        let (first, len) = ((from - self.from) * 2 * size, chunk.steps * 2 * size);
        // SAFETY: the row belongs to this task alone.
        let dgroup = unsafe { self.sums.dgroup.part(self.index, first, first + len) };
        let chunk_row = task.batch * scan.dims.chunks() + from / CHUNK;
        for_numbers!(state, WIDE, |n, W| {
            let mut pass = Pass::<_, W>::of::<HELD>(pass, P);
            pass.db.fill([s.splat_f32s(0.0); W]);
            pass.dc.fill([s.splat_f32s(0.0); W]);
            for i in 0..count {
                let tile = self.tile::<S>(i);
                let (first, end) = tile.states(size);
                let saved = self.checkpoints.part(chunk_row, first, end);
                load_checkpoint::<S, P, W>(s, saved, tile.width, n, pass.h);
                let mut steps = Steps::of(&mut tiles.steps[i * STEP_VECTORS..][..STEP_VECTORS]);
                let values = i * size..(i + 1) * size;
                let a = numbers::<_, P, W>(&tiles.a[values.clone()], n);
                let ahead = (n == 0).then(|| self.ahead(tile));
                let (steps, pass) = (&mut steps, &mut pass);
                for_range!(range, |RANGE| replay::<S, P, W, RANGE, HELD>(
                    s, &chunk, group, n, &a, steps, pass, ahead
                ));
                let (carry, da) = (&mut tiles.carry[values.clone()], &mut tiles.da[values]);
                retreat::<S, P, W, HELD>(s, &chunk, group, n, &a, carry, da, steps, pass);
            }
            reduce::<S, P, W>(s, state, n, &pass, dgroup);
        });
        for i in 0..count {
            let steps = Steps::of(&mut tiles.steps[i * STEP_VECTORS..][..STEP_VECTORS]);
            finish::<S, P, HELD>(
                s,
                x,
                &chunk,
                self.tile::<S>(i),
                &steps,
                self.sums,
                task.segment,
            );
        }
    }

    /// The rows of a tile in the chunk before, which comes next.
    #[inline(always)]
    fn ahead(&self, tile: Tile) -> Ahead {
        let (x, grads) = (&self.scan.operands, &self.sums.grads);
        let reads = [Some(x.u), Some(x.delta), x.z, Some(self.dout)];
        let writes = [Some(&grads.u), Some(&grads.delta), grads.z.as_ref()];
        Ahead::new(tile, &reads, &writes, !self.scan.reverse)
    }
}
