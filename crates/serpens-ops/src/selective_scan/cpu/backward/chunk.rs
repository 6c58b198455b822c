//! A chunk of the backward: the replay of its states and the walk of λ back through it, for one tile.

use serpens_core::Mat;

use super::{Sums, WIDE};
use crate::selective_scan::ScanOperands;
use crate::selective_scan::cpu::Scan;
use crate::selective_scan::cpu::decay::{Rates, Transition, range_of};
use crate::selective_scan::cpu::lanes::{
    Ahead, Group, Tile, add_conj, add_real_product, conj_mul, mul_add, numbers, pick, put, scaled,
    set_numbers, splat,
};
use crate::selective_scan::cpu::plan::{CHUNK, Chunk};
use crate::simd::{Simd, load, silu_and_slope, store};

/// What a tile keeps for each step of a chunk.
pub(super) struct Steps<'a, V> {
    delta: &'a mut [V; CHUNK],
    /// δu, or u where it is held.
    input: &'a mut [V; CHUNK],
    /// dL/dy, times P.
    g: &'a mut [V; CHUNK],
    /// Re <C, h>.
    y: &'a mut [V; CHUNK],
    /// <λ, B>; <λ, w B> where the input is held.
    lambda_b: &'a mut [V; CHUNK],
    /// <λ, A exp(δA) h>; <λ, exp(δA) (A h + B u)> where it is held, which is all of the gradient of δ.
    lambda_a: &'a mut [V; CHUNK],
    /// dδ/dΔ.
    delta_slope: &'a mut [V; CHUNK],
    /// dz/y = dout silu'(z).
    gate_slope: &'a mut [V; CHUNK],
}

pub(super) const STEP_VECTORS: usize = 8 * CHUNK;

impl<'a, V> Steps<'a, V> {
    #[inline(always)]
    pub(super) fn of(x: &'a mut [V]) -> Self {
        let (all, _) = x.as_chunks_mut();
        let all: &mut [_; 8] = all.try_into().expect("eight vectors for each step");
        let [
            delta,
            input,
            g,
            y,
            lambda_b,
            lambda_a,
            delta_slope,
            gate_slope,
        ] = all;
        Self {
            delta,
            input,
            g,
            y,
            lambda_b,
            lambda_a,
            delta_slope,
            gate_slope,
        }
    }
}

/// What the pass over `W` numbers keeps for each step of a chunk; rows are steps with P parts each.
pub(super) struct Pass<'a, V, const W: usize> {
    /// exp(δA).
    decay: &'a mut [[V; W]],
    /// w and its derivative by A, where the input is held.
    hold: &'a mut [[V; W]],
    hold_slope: &'a mut [[V; W]],
    /// The states, that before the chunk first.
    pub(super) h: &'a mut [[V; W]],
    /// Sums over the task's tiles, a lane for each channel of a tile.
    pub(super) db: &'a mut [[V; W]],
    pub(super) dc: &'a mut [[V; W]],
}

pub(super) const fn pass_vectors(parts: usize, held: bool) -> usize {
    let rows = if held { 6 } else { 4 };
    (rows * CHUNK + 1) * parts * WIDE
}

impl<'a, V, const W: usize> Pass<'a, V, W> {
    #[inline(always)]
    pub(super) fn of<const HELD: bool>(x: &'a mut [V], parts: usize) -> Self {
        let (rows, _) = x.as_chunks_mut::<W>();
        let of_hold = if HELD { CHUNK * parts } else { 0 };
        let (hold, rows) = rows.split_at_mut(of_hold);
        let (hold_slope, rows) = rows.split_at_mut(of_hold);
        let (decay, rows) = rows.split_at_mut(CHUNK * parts);
        let (db, rows) = rows.split_at_mut(CHUNK * parts);
        let (dc, h) = rows.split_at_mut(CHUNK * parts);
        Self {
            decay,
            hold,
            hold_slope,
            h,
            db,
            dc,
        }
    }
}

/// The steps' inputs, and zero for their sums. Returns the range of the decays.
#[inline(always)]
pub(super) fn begin<S: Simd, const P: usize>(
    s: S,
    scan: &Scan,
    dout: Mat,
    chunk: &Chunk,
    tile: Tile,
    a: &[S::f32s],
    steps: &mut Steps<S::f32s>,
) -> u8 {
    tile.load_steps(
        s,
        scan,
        chunk,
        steps.delta,
        steps.input,
        Some(steps.delta_slope),
    );
    let parts = s.splat_f32s(P as f32);
    for i in 0..chunk.steps {
        let row = chunk.row(i);
        let dout = tile.of(s, dout, row);
        let mut g = s.mul_f32s(dout, parts);
        if let Some(z) = scan.operands.z {
            let (silu, slope) = silu_and_slope(s, tile.of(s, z, row));
            g = s.mul_f32s(g, silu);
            steps.gate_slope[i] = s.mul_f32s(dout, slope);
        }
        steps.g[i] = g;
    }
    for sums in [&mut *steps.y, steps.lambda_b, steps.lambda_a] {
        sums.fill(s.splat_f32s(0.0));
    }
    range_of(s, &steps.delta[..chunk.steps], a)
}

/// The state before a chunk, as the forward saved it.
#[inline(always)]
pub(super) fn load_checkpoint<S: Simd, const P: usize, const W: usize>(
    s: S,
    saved: &[f32],
    width: usize,
    n: usize,
    h: &mut [[S::f32s; W]],
) {
    let size = saved.len() / (P * width);
    for part in 0..P {
        for j in 0..W {
            h[part][j] = load(s, &saved[(part * size + n + j) * width..][..width]);
        }
    }
}

/// Runs the recurrence over a chunk and keeps its decays, states and weights of held inputs.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are the kernel's registers and rows"
)]
pub(super) fn replay<S: Simd, const P: usize, const W: usize, const RANGE: u8, const HELD: bool>(
    s: S,
    chunk: &Chunk,
    group: Group,
    n: usize,
    a: &[[S::f32s; W]; P],
    steps: &mut Steps<S::f32s>,
    pass: &mut Pass<S::f32s, W>,
    ahead: Option<Ahead>,
) {
    let rates = Rates::new::<S, P, HELD>(s, a);
    let zero = [[s.splat_f32s(0.0); W]; P];
    let mut state = zero;
    state.copy_from_slice(&pass.h[..P]);
    for i in 0..chunk.steps {
        if chunk.resets[i] {
            state = zero;
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
        let mut y = steps.y[i];
        let mut decays = zero;
        for j in 0..W {
            let step = Transition::<_, P>::new::<S, W, RANGE, HELD>(s, delta, &rates, j);
            let taken = scaled(s, step.weigh::<S, HELD>(s, input), splat(s, &b, j));
            let next = mul_add(s, step.decay, pick(&state, j), taken);
            put(next, &mut state, j);
            put(step.decay, &mut decays, j);
            if HELD {
                pass.hold[i][j] = step.hold;
                pass.hold_slope[i][j] = step.hold_slope;
            }
            y = add_real_product(s, y, splat(s, &c, j), next);
        }
        steps.y[i] = y;
        pass.decay[i * P..(i + 1) * P].copy_from_slice(&decays);
        pass.h[(i + 1) * P..(i + 2) * P].copy_from_slice(&state);
    }
}

/// Runs λ from a chunk's last step to its first.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are the kernel's registers and rows"
)]
pub(super) fn retreat<S: Simd, const P: usize, const W: usize, const HELD: bool>(
    s: S,
    chunk: &Chunk,
    group: Group,
    n: usize,
    a: &[[S::f32s; W]; P],
    carry: &mut [S::f32s],
    da: &mut [S::f32s],
    steps: &mut Steps<S::f32s>,
    pass: &mut Pass<S::f32s, W>,
) {
    let zero = [[s.splat_f32s(0.0); W]; P];
    let (mut carries, mut das) = (numbers::<_, P, W>(carry, n), zero);
    for i in (0..chunk.steps).rev() {
        let row = chunk.row(i);
        let b = numbers::<_, P, W>(group.b(row), n);
        let c = numbers::<_, P, W>(group.c(row), n);
        let (delta, input, g) = (steps.delta[i], steps.input[i], steps.g[i]);
        let (mut lambda_b, mut lambda_a) = (steps.lambda_b[i], steps.lambda_a[i]);
        let decays: [[S::f32s; W]; P] = rows(&pass.decay[i * P..]);
        let h: [[S::f32s; W]; P] = rows(&pass.h[(i + 1) * P..]);
        let before = if chunk.resets[i] {
            zero
        } else {
            rows(&pass.h[i * P..])
        };
        for j in 0..W {
            let lambda = add_conj(s, pick(&carries, j), g, splat(s, &c, j));
            let b = splat(s, &b, j);
            let next = conj_mul(s, pick(&decays, j), lambda);
            // d(log of the decay): conj(decay) λ conj(h).
            let dlog = conj_mul(s, pick(&before, j), next);
            let h = pick(&h, j);
            let dc = pick(&rows::<_, P, W>(&pass.dc[i * P..]), j);
            let dc = add_conj(s, dc, g, h);
            let mut taken = lambda;
            if HELD {
                taken[0] = s.mul_f32s(lambda[0], pass.hold[i][j]);
                let b_u = s.mul_f32s(b[0], input);
                let change = s.mul_add_f32s(a[0][j], before[0][j], b_u);
                lambda_a = s.mul_add_f32s(next[0], change, lambda_a);
                let by_hold = s.mul_f32s(lambda[0], b_u);
                das[0][j] = s.mul_add_f32s(by_hold, pass.hold_slope[i][j], das[0][j]);
            }
            for part in 0..P {
                let k = i * P + part;
                pass.db[k][j] = s.mul_add_f32s(taken[part], input, pass.db[k][j]);
                pass.dc[k][j] = dc[part];
                lambda_b = s.mul_add_f32s(taken[part], b[part], lambda_b);
                if !HELD {
                    lambda_a = s.mul_add_f32s(a[part][j], dlog[part], lambda_a);
                }
                das[part][j] = s.mul_add_f32s(delta, dlog[part], das[part][j]);
            }
            put(next, &mut carries, j);
        }
        if chunk.resets[i] {
            carries = zero;
        }
        (steps.lambda_b[i], steps.lambda_a[i]) = (lambda_b, lambda_a);
    }
    set_numbers(carry, n, carries);
    let mut total = numbers::<_, P, W>(da, n);
    for part in 0..P {
        for j in 0..W {
            total[part][j] = s.add_f32s(total[part][j], das[part][j]);
        }
    }
    set_numbers(da, n, total);
}

/// The first P rows.
#[inline(always)]
fn rows<V: Copy, const P: usize, const W: usize>(x: &[[V; W]]) -> [[V; W]; P] {
    *x.first_chunk().expect("every step has P rows")
}

/// Sums dB and dC over lanes into rows of (dB, dC) per step.
#[inline(always)]
pub(super) fn reduce<S: Simd, const P: usize, const W: usize>(
    s: S,
    count: usize,
    n: usize,
    pass: &Pass<S::f32s, W>,
    dgroup: &mut [f32],
) {
    let size = P * count;
    for (i, row) in dgroup.chunks_exact_mut(2 * size).enumerate() {
        for part in 0..P {
            for j in 0..W {
                row[part * count + n + j] = s.reduce_sum_f32s(pass.db[i * P + part][j]);
                row[size + part * count + n + j] = s.reduce_sum_f32s(pass.dc[i * P + part][j]);
            }
        }
    }
}

/// du, dΔ and dz of a chunk, and its share of dD and dbias.
#[inline(always)]
pub(super) fn finish<S: Simd, const P: usize, const HELD: bool>(
    s: S,
    x: &ScanOperands<Mat>,
    chunk: &Chunk,
    tile: Tile,
    steps: &Steps<S::f32s>,
    sums: &Sums,
    segment: usize,
) {
    let (from, to) = (tile.channel, tile.channel + tile.width);
    let d = tile.of_vector(s, x.d);
    let (parts, per_part) = (s.splat_f32s(P as f32), s.splat_f32s(1.0 / P as f32));
    let (mut dd, mut dbias) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
    for i in 0..chunk.steps {
        let row = chunk.row(i);
        let u = tile.of(s, x.u, row);
        let g = s.mul_f32s(steps.g[i], per_part);
        let (lambda_b, lambda_a) = (steps.lambda_b[i], steps.lambda_a[i]);
        let (du, ddelta) = if HELD {
            (s.mul_add_f32s(d, g, lambda_b), lambda_a)
        } else {
            let du = s.mul_add_f32s(steps.delta[i], lambda_b, s.mul_f32s(d, g));
            (du, s.mul_add_f32s(u, lambda_b, lambda_a))
        };
        let ddelta = s.mul_f32s(ddelta, steps.delta_slope[i]);
        dd = s.mul_add_f32s(g, u, dd);
        dbias = s.add_f32s(dbias, ddelta);
        // SAFETY: this task alone owns these channels of these steps.
        store(s, unsafe { sums.grads.u.part(row, from, to) }, du);
        // SAFETY: as above.
        store(s, unsafe { sums.grads.delta.part(row, from, to) }, ddelta);
        if let Some(dz) = &sums.grads.z {
            let y = s.mul_add_f32s(d, u, s.mul_f32s(steps.y[i], parts));
            // SAFETY: as above.
            store(
                s,
                unsafe { dz.part(row, from, to) },
                s.mul_f32s(steps.gate_slope[i], y),
            );
        }
    }
    for (sums, more) in [(&sums.dd, dd), (&sums.dbias, dbias)] {
        // SAFETY: this task alone owns these channels of this segment.
        let total = unsafe { sums.part(segment, from, to) };
        let sum = s.add_f32s(load(s, total), more);
        store(s, total, sum);
    }
}
