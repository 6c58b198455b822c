//! The system step by step, from a carried state: constant memory, for running a trained model.

use std::ops::Range;

use rayon::prelude::*;
use serpens_core::{Mat, MatMut};

use super::{System, checked};
use crate::lti_kernel::LtiDims;
use crate::simd::{self, Simd, WithSimd};

/// Channels per task.
const TILE: usize = 16;

/// Steps between two looks at a tile's states in memory: their inputs and outputs stay in the first-level cache.
const STEPS: usize = 32;

/// One value for each channel of a tile.
type Lanes = [f32; TILE];

/// Runs `batch` sequences of `length` steps: u, y (batch, length, channels); `state` (batch, channels, N), or 2 N for a
/// complex system with real parts first, is read and overwritten.
///
/// # Panics
/// If sizes do not fit.
pub fn run(
    system: &System<'_>,
    (batch, length): (usize, usize),
    u: &[f32],
    y: &mut [f32],
    state: &mut [f32],
) {
    let LtiDims {
        channels,
        state: states,
    } = checked(system);
    let planes = system.scale() as usize;
    let width = planes * states;
    assert_eq!(u.len(), batch * length * channels, "u");
    assert_eq!(y.len(), u.len(), "y");
    assert_eq!(state.len(), batch * channels * width, "state");
    if state.is_empty() {
        return;
    }
    let y = MatMut::new(y, batch * length, channels, channels, 0);
    let state = MatMut::dense(state, width);
    let tiles = channels.div_ceil(TILE);
    (0..batch * tiles).into_par_iter().for_each(|task| {
        let (b, first) = (task / tiles, task % tiles * TILE);
        let last = channels.min(first + TILE);
        let mut tile = Tile::new(system, first);
        let row = |e: usize| {
            // SAFETY: each task has the states of its own channels.
            unsafe { state.part(b * channels + e, 0, width) }
        };
        for e in first..last {
            let values: &[f32] = row(e);
            for (n, step) in tile.states.iter_mut().enumerate() {
                step.h_re[e - first] = values[n];
                step.h_im[e - first] = if planes == 2 { values[states + n] } else { 0.0 };
            }
        }
        let (rows, columns) = (b * length..(b + 1) * length, (first, last));
        let u = Mat::dense(u, channels);
        match planes {
            1 => tile.walk::<false>(u, &y, rows, columns),
            _ => tile.walk::<true>(u, &y, rows, columns),
        }
        for e in first..last {
            let values = row(e);
            for (n, step) in tile.states.iter().enumerate() {
                values[n] = step.h_re[e - first];
                if planes == 2 {
                    values[states + n] = step.h_im[e - first];
                }
            }
        }
    });
}

/// One state of each channel of a tile: Ā, B̄ and s C, and the state itself.
struct StateLanes {
    a_re: Lanes,
    a_im: Lanes,
    b_re: Lanes,
    b_im: Lanes,
    c_re: Lanes,
    c_im: Lanes,
    h_re: Lanes,
    h_im: Lanes,
}

struct Tile {
    states: Vec<StateLanes>,
    d: Lanes,
}

impl Tile {
    fn new(system: &System<'_>, first: usize) -> Self {
        let dims = system.dims();
        let channel = |lane: usize| (first + lane).min(dims.channels - 1);
        let states = (0..dims.state)
            .map(|n| {
                let states: [_; TILE] =
                    std::array::from_fn(|lane| system.discretise(channel(lane), n));
                StateLanes {
                    a_re: states.map(|x| x.a_bar.re as f32),
                    a_im: states.map(|x| x.a_bar.im as f32),
                    b_re: states.map(|x| x.b_bar().re as f32),
                    b_im: states.map(|x| x.b_bar().im as f32),
                    c_re: states.map(|x| (x.c().re * system.scale()) as f32),
                    c_im: states.map(|x| (x.c().im * system.scale()) as f32),
                    h_re: [0.0; TILE],
                    h_im: [0.0; TILE],
                }
            })
            .collect();
        Self {
            states,
            d: std::array::from_fn(|lane| system.d.map_or(0.0, |d| d[channel(lane)])),
        }
    }

    /// Goes along these rows, [`STEPS`] at a time.
    fn walk<const COMPLEX: bool>(
        &mut self,
        u: Mat,
        y: &MatMut,
        rows: Range<usize>,
        columns: (usize, usize),
    ) {
        for from in rows.clone().step_by(STEPS) {
            simd::dispatch(Steps::<COMPLEX> {
                tile: self,
                u,
                y,
                steps: from..rows.end.min(from + STEPS),
                columns,
            });
        }
    }
}

/// h ← Ā h + B̄ u, y = Re(s C h) + D u, for some steps of the channels of a tile: of two states at a time, which stay
/// in registers meanwhile.
struct Steps<'a, const COMPLEX: bool> {
    tile: &'a mut Tile,
    u: Mat<'a>,
    y: &'a MatMut<'a>,
    /// Rows of u and y, [`STEPS`] at most.
    steps: Range<usize>,
    /// The first of the tile's channels, and the one behind the last.
    columns: (usize, usize),
}

impl<const COMPLEX: bool> WithSimd for Steps<'_, COMPLEX> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (first, last) = self.columns;
        let zero = s.splat_f32s(0.0);
        let (mut inputs, mut sums) = ([zero; STEPS], [zero; STEPS]);
        for from in (0..last - first).step_by(S::F32_LANES) {
            let (column, end) = (first + from, last.min(first + from + S::F32_LANES));
            let d = simd::load(s, &self.tile.d[from..]);
            let inputs = &mut inputs[..self.steps.len()];
            let sums = &mut sums[..self.steps.len()];
            for ((t, u), sum) in self.steps.clone().zip(&mut *inputs).zip(&mut *sums) {
                *u = simd::load(s, self.u.part(t, column, end));
                *sum = s.mul_f32s(*u, d);
            }
            let (pairs, single) = self.tile.states.as_chunks_mut::<2>();
            for pair in pairs {
                add::<S, COMPLEX, 2>(s, pair, from, inputs, sums);
            }
            if let [state] = single {
                add::<S, COMPLEX, 1>(s, std::array::from_mut(state), from, inputs, sums);
            }
            for (t, sum) in self.steps.clone().zip(&*sums) {
                // SAFETY: each task has its own columns of its own rows.
                let y = unsafe { self.y.part(t, column, end) };
                simd::store(s, y, *sum);
            }
        }
    }
}

/// Moves the lanes from `from` on of N states along the inputs, and adds what each gives of the outputs.
#[inline(always)]
fn add<S: Simd, const COMPLEX: bool, const N: usize>(
    s: S,
    states: &mut [StateLanes; N],
    from: usize,
    inputs: &[S::f32s],
    sums: &mut [S::f32s],
) {
    let zero = [s.splat_f32s(0.0); N];
    let (mut a_re, mut a_im, mut b_re, mut b_im) = (zero, zero, zero, zero);
    let (mut c_re, mut c_im, mut h_re, mut h_im) = (zero, zero, zero, zero);
    for (n, state) in states.iter().enumerate() {
        let load = |lanes: &Lanes| simd::load(s, &lanes[from..]);
        (a_re[n], a_im[n]) = (load(&state.a_re), load(&state.a_im));
        (b_re[n], b_im[n]) = (load(&state.b_re), load(&state.b_im));
        (c_re[n], c_im[n]) = (load(&state.c_re), load(&state.c_im));
        (h_re[n], h_im[n]) = (load(&state.h_re), load(&state.h_im));
    }
    for (&u, sum) in inputs.iter().zip(sums) {
        for n in 0..N {
            let mut re = s.mul_add_f32s(a_re[n], h_re[n], s.mul_f32s(b_re[n], u));
            if COMPLEX {
                re = s.negate_mul_add_f32s(a_im[n], h_im[n], re);
                let im = s.mul_add_f32s(a_re[n], h_im[n], s.mul_f32s(b_im[n], u));
                h_im[n] = s.mul_add_f32s(a_im[n], h_re[n], im);
                *sum = s.negate_mul_add_f32s(c_im[n], h_im[n], *sum);
            }
            *sum = s.mul_add_f32s(c_re[n], re, *sum);
            h_re[n] = re;
        }
    }
    for (n, state) in states.iter_mut().enumerate() {
        simd::store(s, &mut state.h_re[from..], h_re[n]);
        simd::store(s, &mut state.h_im[from..], h_im[n]);
    }
}
