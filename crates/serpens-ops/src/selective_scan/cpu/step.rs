//! One step of decoding: lanes over the N values of a channel's state, which lie side by side in memory.

use rayon::prelude::*;
use serpens_core::MatMut;

use super::lanes::{Group, Tile, exp, gate, softplus};
use super::{A, Dims, Inputs};
use crate::simd::{Isa, Simd, WithSimd, load, sin_cos, store};

/// Channels of one task.
const CHANNELS: usize = 256;

/// Values of the state below which threads cost more than they save.
const SERIAL: usize = 1 << 16;

/// The most lanes of any instruction set.
const LANES: usize = 16;

/// Runs one step of every sequence. `state` is (batch, channels, P·N), `out` (batch, channels).
pub(super) fn run<const P: usize>(
    isa: Isa,
    dims: &Dims,
    x: &Inputs,
    state: &mut [f32],
    out: &MatMut,
) {
    let size = P * dims.state;
    let chunks = dims.channels.div_ceil(CHANNELS);
    let serial = state.len() < SERIAL;
    let states = MatMut::dense(state, dims.channels * size);
    let task = |index: usize| {
        let (batch, first) = (index / chunks, index % chunks * CHANNELS);
        let channels = CHANNELS.min(dims.channels - first);
        // SAFETY: tasks have different channels or sequences.
        let state = unsafe { states.part(batch, first * size, (first + channels) * size) };
        // SAFETY: as above.
        let out = unsafe { out.part(batch, first, first + channels) };
        isa.run(Step::<P> {
            dims,
            x,
            batch,
            first,
            state,
            out,
        });
    };
    if serial {
        (0..dims.batch * chunks).for_each(task);
    } else {
        (0..dims.batch * chunks).into_par_iter().for_each(task);
    }
}

struct Step<'a, const P: usize> {
    dims: &'a Dims,
    x: &'a Inputs<'a>,
    batch: usize,
    first: usize,
    /// (channels, P·N) of this task's channels.
    state: &'a mut [f32],
    /// This task's channels.
    out: &'a mut [f32],
}

impl<const P: usize> WithSimd for Step<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            dims,
            x,
            batch,
            first,
            ..
        } = self;
        let size = P * dims.state;
        let channels = self.out.len();
        for i in 0..channels.div_ceil(S::F32_LANES) {
            let tile = Tile::new(first, channels, S::F32_LANES, i);
            let raw = s.add_f32s(tile.of(s, x.delta, batch), tile.of_vector(s, x.delta_bias));
            let delta = if x.softplus { softplus(s, raw).0 } else { raw };
            let u = tile.of(s, x.u, batch);
            let (mut deltas, mut delta_us, mut ys) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            store(s, &mut deltas, delta);
            store(s, &mut delta_us, s.mul_f32s(delta, u));
            for lane in 0..tile.width {
                let channel = tile.channel + lane;
                let group = Group::new(dims, x, channel / dims.group_channels());
                let state = &mut self.state[(channel - first) * size..][..size];
                let (b, c) = (group.b(batch), group.c(batch));
                ys[lane] =
                    advance::<S, P>(s, x.a, channel, deltas[lane], delta_us[lane], b, c, state);
            }
            let mut y = s.mul_f32s(load(s, &ys), s.splat_f32s(P as f32));
            if x.d.is_some() {
                y = s.mul_add_f32s(tile.of_vector(s, x.d), u, y);
            }
            y = s.mul_f32s(y, gate(s, x, tile, batch));
            store(s, &mut self.out[tile.channel - first..][..tile.width], y);
        }
    }
}

/// h = exp(δ A) h + δu B for one channel; gives Re <C, h>.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are rows of one channel"
)]
fn advance<S: Simd, const P: usize>(
    s: S,
    a: A,
    channel: usize,
    delta: f32,
    delta_u: f32,
    b: &[f32],
    c: &[f32],
    state: &mut [f32],
) -> f32 {
    let count = state.len() / P;
    let row = channel * count..(channel + 1) * count;
    let (a_re, a_im) = match a {
        A::Real(a) => (&a[row], [].as_slice()),
        A::Complex { re, im } => (&re[row.clone()], &im[row]),
    };
    let (b_re, b_im) = b.split_at(count);
    let (c_re, c_im) = c.split_at(count);
    let (h_re, h_im) = state.split_at_mut(count);
    let (delta, delta_u) = (s.splat_f32s(delta), s.splat_f32s(delta_u));
    let mut sum = s.splat_f32s(0.0);
    for n in (0..count).step_by(S::F32_LANES) {
        let decay = exp(s, s.mul_f32s(delta, load(s, &a_re[n..])));
        let (old, input) = (
            load(s, &h_re[n..]),
            s.mul_f32s(delta_u, load(s, &b_re[n..])),
        );
        if P == 1 {
            let new = s.mul_add_f32s(decay, old, input);
            store(s, &mut h_re[n..], new);
            sum = s.mul_add_f32s(load(s, &c_re[n..]), new, sum);
        } else {
            let (sine, cosine) = sin_cos(s, s.mul_f32s(delta, load(s, &a_im[n..])));
            let (decay, decay_im) = (s.mul_f32s(decay, cosine), s.mul_f32s(decay, sine));
            let (old_im, input_im) = (
                load(s, &h_im[n..]),
                s.mul_f32s(delta_u, load(s, &b_im[n..])),
            );
            let new = s.negate_mul_add_f32s(decay_im, old_im, s.mul_add_f32s(decay, old, input));
            let new_im = s.mul_add_f32s(decay_im, old, s.mul_add_f32s(decay, old_im, input_im));
            store(s, &mut h_re[n..], new);
            store(s, &mut h_im[n..], new_im);
            sum = s.mul_add_f32s(load(s, &c_re[n..]), new, sum);
            sum = s.negate_mul_add_f32s(load(s, &c_im[n..]), new_im, sum);
        }
    }
    s.reduce_sum_f32s(sum)
}
