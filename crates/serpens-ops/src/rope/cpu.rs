//! Rotation on the processor: lanes over the pairs of a head, threads over stretches of positions.

use serpens_core::{Mat, MatMut};

use super::Turn;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use crate::simd::{self, Simd, WithSimd, load, store};

/// Positions of a task: its first has sines and cosines by their definition, the others by turning on from one to the
/// next in f64, which is off by less than 2⁻⁴⁵ at the end.
const POSITIONS: usize = 64;

/// How much the angle of each pair of a head grows from a position to the next.
pub(crate) fn fill_frequencies(frequencies: &mut [f64], base: f32) {
    let pairs = frequencies.len() as f64;
    for (i, frequency) in frequencies.iter_mut().enumerate() {
        *frequency = f64::from(base).powf(-(i as f64) / pairs);
    }
}

/// y = x with each row turned, or turned back.
///
/// # Panics
/// If the shapes disagree.
pub fn turn(x: Mat, y: MatMut, turn: &Turn) {
    let (rows, cols, head) = (x.rows(), x.cols(), turn.options.head);
    assert_eq!([y.rows(), y.cols()], [rows, cols], "y");
    assert!(head.is_multiple_of(2) && cols.is_multiple_of(head), "heads");
    assert!(rows.is_multiple_of(turn.length), "sequences");
    let of_sequence = turn.length.div_ceil(POSITIONS);
    let tasks = rows.checked_div(turn.length).unwrap_or(0) * of_sequence;
    with_scratch(3 * head, |scratch| {
        // Of each pair the frequency, and the cosine and sine of it.
        let steps: &mut [f64] = bytemuck::cast_slice_mut(scratch);
        let (frequencies, turns) = steps.split_at_mut(head / 2);
        fill_frequencies(frequencies, turn.options.base);
        let (cosines, sines) = turns.split_at_mut(head / 2);
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            *frequency = if turn.back { -*frequency } else { *frequency };
            (sines[i], cosines[i]) = frequency.sin_cos();
        }
        let steps = [&*frequencies, cosines, sines];
        for_each_task(rows * cols, tasks, |task| {
            let (sequence, from) = (task / of_sequence, task % of_sequence * POSITIONS);
            with_scratch(3 * head, |room| {
                simd::dispatch(Stretch {
                    x,
                    y: &y,
                    first: sequence * turn.length + from,
                    count: POSITIONS.min(turn.length - from),
                    position: turn.options.from + from,
                    steps,
                    room,
                });
            });
        });
    });
}

/// Some positions of a sequence.
struct Stretch<'a> {
    x: Mat<'a>,
    y: &'a MatMut<'a>,
    /// The first of its rows, and how many there are.
    first: usize,
    count: usize,
    /// Of the first row.
    position: usize,
    /// Of each pair the frequency, and the cosine and sine of it.
    steps: [&'a [f64]; 3],
    /// For the cosines and sines of a position, in f64 and in f32.
    room: &'a mut [f32],
}

impl WithSimd for Stretch<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [frequencies, step_cosines, step_sines] = self.steps;
        let pairs = frequencies.len();
        let (exact, factors) = self.room.split_at_mut(4 * pairs);
        let exact: &mut [f64] = bytemuck::cast_slice_mut(exact);
        let (cosines, sines) = exact.split_at_mut(pairs);
        for (i, frequency) in frequencies.iter().enumerate() {
            (sines[i], cosines[i]) = (self.position as f64 * frequency).sin_cos();
        }
        let (of_cosines, of_sines) = factors.split_at_mut(pairs);
        for row in self.first..self.first + self.count {
            for i in 0..pairs {
                let (cosine, sine) = (cosines[i], sines[i]);
                (of_cosines[i], of_sines[i]) = (cosine as f32, sine as f32);
                cosines[i] = cosine * step_cosines[i] - sine * step_sines[i];
                sines[i] = sine * step_cosines[i] + cosine * step_sines[i];
            }
            let factors = [&*of_cosines, &*of_sines];
            // SAFETY: each task has its own rows.
            let y = unsafe { self.y.part(row, 0, self.x.cols()) };
            let heads = self.x.row(row).chunks_exact(2 * pairs);
            for (x, y) in heads.zip(y.chunks_exact_mut(2 * pairs)) {
                turn_head(s, x, factors, y);
            }
        }
    }
}

/// y = a head turned by angles of these cosines and sines.
#[inline(always)]
pub(crate) fn turn_head<S: Simd>(s: S, x: &[f32], factors: [&[f32]; 2], y: &mut [f32]) {
    let [cosines, sines] = factors;
    let pairs = cosines.len();
    let ((low, high), (to_low, to_high)) = (x.split_at(pairs), y.split_at_mut(pairs));
    for i in (0..pairs).step_by(S::F32_LANES) {
        let (cosine, sine) = (load(s, &cosines[i..]), load(s, &sines[i..]));
        let (low, high) = (load(s, &low[i..]), load(s, &high[i..]));
        let turned = s.mul_add_f32s(low, cosine, s.neg_f32s(s.mul_f32s(high, sine)));
        store(s, &mut to_low[i..], turned);
        let turned = s.mul_add_f32s(high, cosine, s.mul_f32s(low, sine));
        store(s, &mut to_high[i..], turned);
    }
}
