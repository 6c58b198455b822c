//! Convolution kernels: lanes over channels, threads over (sequence, segment of time).
//!
//! Time is counted in steps in the direction of the convolution, so that the two directions differ in `Sequence::row`
//! alone. Widths 2, 3 and 4 go by blocks of `BLOCK` steps whose inputs are loaded once; the steps beside a boundary,
//! and every other width, go one by one.

mod backward;
mod forward;
mod sequence;
mod step;

use serpens_core::{Mat, MatMut};

use self::backward::Backward;
use self::forward::Forward;
use self::sequence::Sequence;
pub use self::step::step;
use super::{ConvDims, ConvOperands};
use crate::elementwise::cpu::sum_rows;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{for_each_task, reduction_block};
use crate::simd;

/// A convolution as the kernels of the processor take it: sequences as batch·length rows, and for each a flag that is
/// true where a packed sequence starts, as time runs ([`crate::Starts::flags`]).
pub type Conv<'a> = super::Conv<Mat<'a>, &'a [bool]>;

impl<'a> Conv<'a> {
    fn check(&self) {
        let dims = &self.dims;
        assert!(dims.width > 0, "width");
        for (role, mat) in self.operands.iter() {
            role.assert_fits(dims, mat);
        }
        let rows = dims.batch * dims.length;
        assert!(self.starts.is_none_or(|s| s.len() == rows), "starts");
    }

    fn check_state(&self, state: Option<&[f32]>) {
        let len = self.dims.batch * self.history();
        assert!(state.is_none_or(|s| s.len() == len), "state");
    }

    fn check_gradients(&self, dy: Mat, grads: &ConvOperands<MatMut>) {
        let x = self.operands.x;
        assert_eq!((dy.rows(), dy.cols()), (x.rows(), x.cols()), "dy");
        for (role, grad) in grads.iter() {
            role.assert_fits(&self.dims, grad);
        }
    }

    /// Values of a sequence's state.
    fn history(&self) -> usize {
        (self.dims.width - 1) * self.dims.channels
    }

    /// Steps of one task, a function of the shape alone.
    fn segment(&self) -> usize {
        reduction_block(self.dims.batch * self.dims.length).max(64)
    }

    /// Lends the weight as (width + 1, channels), the bias or zeros last, so that the lanes of a tap are neighbours.
    fn with_taps<R>(&self, f: impl FnOnce(Mat) -> R) -> R {
        let ConvDims {
            channels, width, ..
        } = self.dims;
        with_scratch((width + 1) * channels, |taps| {
            let (weight, bias) = taps.split_at_mut(width * channels);
            let values = self.operands.weight.into_slice();
            for k in 0..width {
                let column = &mut weight[k * channels..(k + 1) * channels];
                for (tap, w) in column.iter_mut().zip(values.chunks_exact(width)) {
                    *tap = w[k];
                }
            }
            match self.operands.bias {
                Some(values) => bias.copy_from_slice(values.into_slice()),
                None => bias.fill(0.0),
            }
            f(Mat::new(taps, width + 1, channels, channels, 0))
        })
    }

    fn sequence(&self, taps: Mat<'a>, b: usize) -> Sequence<'a> {
        let (state, length) = (self.history(), self.dims.length);
        let initial = self.operands.initial_state.map(Mat::into_slice);
        Sequence {
            x: self.operands.x,
            taps,
            state: initial.map(|all| &all[b * state..(b + 1) * state]),
            starts: self.starts.map(|all| &all[b * length..(b + 1) * length]),
            first_row: b * length,
            length,
            width: self.dims.width,
            reverse: self.reverse,
            silu: self.silu,
        }
    }
}

/// y = act(bias + Σ_k weight\[k\] · x\[t − W + 1 + k\]); the last W − 1 inputs go to `final_state` where it is asked
/// for.
///
/// # Panics
/// If the shapes disagree.
pub fn forward(conv: &Conv, y: MatMut, mut final_state: Option<&mut [f32]>) {
    conv.check();
    conv.check_state(final_state.as_deref());
    let x = conv.operands.x;
    assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "y");
    let ConvDims { batch, length, .. } = conv.dims;
    conv.with_taps(|taps| {
        let segment = conv.segment();
        let segments = length.div_ceil(segment);
        for_each_task(x.rows() * x.cols(), batch * segments, |task| {
            let from = task % segments * segment;
            simd::dispatch(Forward {
                sequence: conv.sequence(taps, task / segments),
                steps: (from, length.min(from + segment)),
                y: &y,
            });
        });
        let history = conv.history();
        for b in 0..batch {
            if let Some(all) = &mut final_state {
                let state = &mut all[b * history..(b + 1) * history];
                conv.sequence(taps, b).carry(state);
            }
        }
    });
}

/// The gradients of all operands, from `dy` and, where the final state was used, its gradient. They are overwritten,
/// but where `accumulate` is set those of weight and bias are added to.
///
/// # Panics
/// If the shapes disagree.
pub fn backward(
    conv: &Conv,
    dy: Mat,
    d_final_state: Option<&[f32]>,
    grads: ConvOperands<MatMut>,
    accumulate: bool,
) {
    conv.check();
    conv.check_state(d_final_state);
    conv.check_gradients(dy, &grads);
    let x = conv.operands.x;
    let ConvDims {
        batch,
        length,
        channels,
        width,
    } = conv.dims;
    let (history, parameters) = (conv.history(), (width + 1) * channels);
    // An empty sequence still hands the gradient of its final state to its initial one.
    let segment = conv.segment();
    let segments = length.div_ceil(segment).max(1);
    let tasks = batch * segments;
    let dinitial_state = grads.initial_state.map(|all| {
        let all = all.into_slice();
        let len = all.len();
        MatMut::new(all, 1, len, len, 0)
    });
    conv.with_taps(|taps| {
        with_scratch((tasks + 1) * parameters, |partials| {
            let (partials, total) = partials.split_at_mut(tasks * parameters);
            let shared = MatMut::new(partials, tasks, parameters, parameters, 0);
            for_each_task(x.rows() * channels, tasks, |task| {
                let (b, from) = (task / segments, task % segments * segment);
                let state = b * history..(b + 1) * history;
                with_scratch(width * channels, |ring| {
                    simd::dispatch(Backward {
                        sequence: conv.sequence(taps, b),
                        steps: (from, length.min(from + segment)),
                        dy,
                        d_final_state: d_final_state.map(|all| &all[state.clone()]),
                        dx: &grads.x,
                        dinitial_state: dinitial_state.as_ref().filter(|_| from == 0).map(|all| {
                            // SAFETY: of the tasks of a sequence only the first writes the gradient of its initial
                            // state.
                            unsafe { all.part(0, state.start, state.end) }
                        }),
                        // SAFETY: each task has its own row of partial sums.
                        dtaps: unsafe { shared.part(task, 0, parameters) },
                        ring,
                    });
                });
            });
            let sums = Mat::new(partials, tasks, parameters, parameters, 0);
            sum_rows(sums, total, false);
            let total = Mat::new(total, width + 1, channels, channels, 0);
            let dbias = grads.bias.map(MatMut::into_slice);
            write_parameters(total, grads.weight.into_slice(), dbias, accumulate);
        });
    });
}

/// dweight: (channels, width) and dbias from the sums in the layout of the taps.
fn write_parameters(total: Mat, dweight: &mut [f32], dbias: Option<&mut [f32]>, accumulate: bool) {
    let width = total.rows() - 1;
    let put = |to: &mut f32, value: f32| *to = if accumulate { *to + value } else { value };
    for k in 0..width {
        for (dw, &value) in dweight.chunks_exact_mut(width).zip(total.row(k)) {
            put(&mut dw[k], value);
        }
    }
    for (db, &value) in dbias.into_iter().flatten().zip(total.row(width)) {
        put(db, value);
    }
}
