//! One position of many sequences: lanes over channels, threads over channels and slots.

use serpens_core::{Mat, MatMut};

use super::sequence::WIDEST;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use crate::simd::{self, Simd, WithSimd, load, silu, store};

/// Channels and slots of one task: its taps are laid out for lanes once, for all of its slots.
const CHANNELS: usize = 512;
const SLOTS: usize = 16;

/// y = act(bias + Σ_k weight\[k\] · (state, x)\[k\]) for each row of x (slots, channels), with weight (channels, W);
/// the row of `state`, (W − 1) · channels values, then holds the last W − 1 inputs. See [`super::super::step`].
///
/// # Panics
/// If the shapes disagree.
pub fn step(x: Mat, weight: Mat, bias: Option<&[f32]>, silu: bool, state: MatMut, y: MatMut) {
    let (slots, channels, width) = (x.rows(), x.cols(), weight.cols());
    assert!(width > 0 && weight.rows() == channels, "weight");
    assert!(bias.is_none_or(|bias| bias.len() == channels), "bias");
    let history = (slots, (width - 1) * channels);
    assert_eq!((state.rows(), state.cols()), history, "state");
    assert_eq!((y.rows(), y.cols()), (slots, channels), "y");
    let of_slots = channels.div_ceil(CHANNELS);
    let tasks = slots.div_ceil(SLOTS) * of_slots;
    for_each_task(slots * channels * (width + 1), tasks, |task| {
        let (slot, channel) = (task / of_slots * SLOTS, task % of_slots * CHANNELS);
        let end = channels.min(channel + CHANNELS);
        with_scratch((width + 1) * (end - channel), |taps| {
            simd::dispatch(Step {
                x,
                weight,
                bias,
                silu,
                state: &state,
                y: &y,
                slots: (slot, slots.min(slot + SLOTS)),
                channels: (channel, end),
                taps,
            });
        });
    });
}

struct Step<'a> {
    x: Mat<'a>,
    weight: Mat<'a>,
    bias: Option<&'a [f32]>,
    silu: bool,
    state: &'a MatMut<'a>,
    y: &'a MatMut<'a>,
    /// The first of its slots, and the one behind the last.
    slots: (usize, usize),
    /// Likewise its channels.
    channels: (usize, usize),
    /// Room for (W + 1, its channels): the weight of each tap, then the bias.
    taps: &'a mut [f32],
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        match self.weight.cols() {
            2 => self.run::<S, 2>(s),
            3 => self.run::<S, 3>(s),
            WIDEST => self.run::<S, WIDEST>(s),
            _ => self.run::<S, 0>(s),
        }
    }
}

impl Step<'_> {
    /// Of width W, or any where that is 0.
    #[inline(always)]
    fn run<S: Simd, const W: usize>(self, s: S) {
        let width = if W == 0 { self.weight.cols() } else { W };
        let (first, end) = self.channels;
        let count = end - first;
        let (taps, bias) = self.taps.split_at_mut(width * count);
        for (i, channel) in (first..end).enumerate() {
            let weight = &self.weight.row(channel)[..width];
            (0..width).for_each(|k| taps[k * count + i] = weight[k]);
        }
        match self.bias {
            Some(values) => bias.copy_from_slice(&values[first..end]),
            None => bias.fill(0.0),
        }
        let channels = self.x.cols();
        for slot in self.slots.0..self.slots.1 {
            let x = self.x.part(slot, first, end);
            // SAFETY: these channels of this slot are the task's own.
            let y = unsafe { self.y.part(slot, first, end) };
            for c in (0..count).step_by(S::F32_LANES) {
                let to = count.min(c + S::F32_LANES);
                let mut sum = load(s, &bias[c..to]);
                let mut previous: Option<&mut [f32]> = None;
                for k in 0..width {
                    let (value, place) = match k + 1 == width {
                        true => (load(s, &x[c..to]), None),
                        false => {
                            let at = k * channels + first;
                            // SAFETY: as above; the rows of a state do not overlap.
                            let place = unsafe { self.state.part(slot, at + c, at + to) };
                            (load(s, place), Some(place))
                        }
                    };
                    sum = s.mul_add_f32s(load(s, &taps[k * count + c..k * count + to]), value, sum);
                    if let Some(previous) = previous {
                        store(s, previous, value);
                    }
                    previous = place;
                }
                let value = if self.silu { silu(s, sum) } else { sum };
                store(s, &mut y[c..to], value);
            }
        }
    }
}
