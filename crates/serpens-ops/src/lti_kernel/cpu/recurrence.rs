//! The system step by step, from a carried state: constant memory, for running a trained model.

use rayon::prelude::*;
use serpens_core::MatMut;

use super::{System, checked};
use crate::lti_kernel::LtiDims;
use crate::simd::{self, Simd, WithSimd};

/// Channels per task.
const TILE: usize = 16;

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
        for t in b * length..(b + 1) * length {
            tile.u[..last - first].copy_from_slice(&u[t * channels + first..t * channels + last]);
            match planes {
                1 => simd::dispatch(Step::<false>(&mut tile)),
                _ => simd::dispatch(Step::<true>(&mut tile)),
            }
            // SAFETY: each task has its own columns of its own rows.
            unsafe { y.part(t, first, last) }.copy_from_slice(&tile.y[..last - first]);
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
    u: Lanes,
    y: Lanes,
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
            u: [0.0; TILE],
            y: [0.0; TILE],
        }
    }
}

/// h ← Ā h + B̄ u, y = Re(s C h) + D u.
struct Step<'a, const COMPLEX: bool>(&'a mut Tile);

impl<const COMPLEX: bool> WithSimd for Step<'_, COMPLEX> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Tile { states, d, u, y } = self.0;
        for from in (0..TILE).step_by(S::F32_LANES) {
            let u = simd::load(s, &u[from..]);
            let mut sum = s.mul_f32s(u, simd::load(s, &d[from..]));
            for state in states.iter_mut() {
                let load = |lanes: &Lanes| simd::load(s, &lanes[from..]);
                let (a_re, h_re) = (load(&state.a_re), load(&state.h_re));
                let mut re = s.mul_add_f32s(a_re, h_re, s.mul_f32s(load(&state.b_re), u));
                if COMPLEX {
                    let (a_im, h_im) = (load(&state.a_im), load(&state.h_im));
                    re = s.negate_mul_add_f32s(a_im, h_im, re);
                    let mut im = s.mul_add_f32s(a_re, h_im, s.mul_f32s(load(&state.b_im), u));
                    im = s.mul_add_f32s(a_im, h_re, im);
                    sum = s.negate_mul_add_f32s(load(&state.c_im), im, sum);
                    simd::store(s, &mut state.h_im[from..], im);
                }
                sum = s.mul_add_f32s(load(&state.c_re), re, sum);
                simd::store(s, &mut state.h_re[from..], re);
            }
            simd::store(s, &mut y[from..], sum);
        }
    }
}
