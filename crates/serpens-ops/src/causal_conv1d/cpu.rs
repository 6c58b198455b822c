//! Convolution kernels: lanes over channels, threads over (sequence, chunk of time).
//!
//! Time is counted in steps in the direction of the convolution, so that the two directions differ in `Sequence::row` alone.
//! Widths 2, 3 and 4 go by blocks of `BLOCK` steps whose inputs are loaded once; the steps beside a boundary, and every other
//! width, go one by one.

mod backward;
mod forward;
mod sequence;

use serpens_core::{Mat, MatMut};

use self::backward::Backward;
use self::forward::Forward;
use self::sequence::Sequence;
use crate::elementwise::cpu::{for_each_task, reduction_block, sum_rows, with_scratch};
use crate::simd;

/// The problem: sizes, parameters and boundaries, as the module describes them. The channels are those of x.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// Number of rows of `length` positions.
    pub batch: usize,
    /// Positions of a row.
    pub length: usize,
    /// Width W of the filter, at least 1.
    pub width: usize,
    /// (channels, width).
    pub weight: &'a [f32],
    /// (channels).
    pub bias: Option<&'a [f32]>,
    /// (batch, width − 1, channels).
    pub initial_state: Option<&'a [f32]>,
    /// (batch, length).
    pub starts: Option<&'a [bool]>,
    /// Whether a position sees those behind it instead of those before it.
    pub reverse: bool,
    /// Whether silu follows the sum.
    pub silu: bool,
}

/// Where [`backward`] writes.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// (batch·length, channels), overwritten.
    pub dx: MatMut<'a>,
    /// (channels, width).
    pub dweight: &'a mut [f32],
    /// (channels).
    pub dbias: Option<&'a mut [f32]>,
    /// Whether `dweight` and `dbias` are added to instead of overwritten.
    pub accumulate: bool,
    /// (batch, width − 1, channels), overwritten.
    pub dinitial_state: Option<&'a mut [f32]>,
}

impl<'a> Conv<'a> {
    fn check(&self, x: Mat) {
        let (rows, channels) = (self.batch * self.length, x.cols());
        assert!(self.width > 0 && x.rows() == rows, "width and rows of x");
        assert_eq!(self.weight.len(), channels * self.width, "weight");
        assert!(self.bias.is_none_or(|b| b.len() == channels), "bias");
        assert!(self.starts.is_none_or(|s| s.len() == rows), "starts");
        self.check_state(self.initial_state, channels);
    }

    fn check_state(&self, state: Option<&[f32]>, channels: usize) {
        let len = self.batch * (self.width - 1) * channels;
        assert!(state.is_none_or(|s| s.len() == len), "state");
    }

    /// Steps of one task, a function of the shape alone.
    fn chunk(&self) -> usize {
        reduction_block(self.batch * self.length).max(64)
    }

    /// Lends the weight as (width + 1, channels), the bias or zeros last, so that the lanes of a tap are neighbours.
    fn with_taps<R>(&self, channels: usize, f: impl FnOnce(Mat) -> R) -> R {
        with_scratch((self.width + 1) * channels, |taps| {
            let (weight, bias) = taps.split_at_mut(self.width * channels);
            for k in 0..self.width {
                let column = &mut weight[k * channels..(k + 1) * channels];
                for (tap, w) in column.iter_mut().zip(self.weight.chunks_exact(self.width)) {
                    *tap = w[k];
                }
            }
            match self.bias {
                Some(values) => bias.copy_from_slice(values),
                None => bias.fill(0.0),
            }
            f(Mat::new(taps, self.width + 1, channels, channels, 0))
        })
    }

    fn sequence(&self, x: Mat<'a>, taps: Mat<'a>, b: usize) -> Sequence<'a> {
        let state = (self.width - 1) * x.cols();
        Sequence {
            x,
            taps,
            state: self
                .initial_state
                .map(|all| &all[b * state..(b + 1) * state]),
            starts: self
                .starts
                .map(|all| &all[b * self.length..(b + 1) * self.length]),
            first_row: b * self.length,
            length: self.length,
            width: self.width,
            reverse: self.reverse,
            silu: self.silu,
        }
    }
}

/// y = act(bias + Σ_k weight\[k\] · x\[t − W + 1 + k\]); the last W − 1 inputs go to `final_state` where it is asked for.
///
/// # Panics
/// If the shapes disagree.
pub fn forward(conv: &Conv, x: Mat, y: MatMut, mut final_state: Option<&mut [f32]>) {
    conv.check(x);
    conv.check_state(final_state.as_deref(), x.cols());
    assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()), "y");
    conv.with_taps(x.cols(), |taps| {
        let chunk = conv.chunk();
        let chunks = conv.length.div_ceil(chunk);
        for_each_task(x.rows() * x.cols(), conv.batch * chunks, |task| {
            let from = task % chunks * chunk;
            simd::dispatch(Forward {
                sequence: conv.sequence(x, taps, task / chunks),
                steps: (from, conv.length.min(from + chunk)),
                y: &y,
            });
        });
        let history = (conv.width - 1) * x.cols();
        for b in 0..conv.batch {
            if let Some(all) = &mut final_state {
                let state = &mut all[b * history..(b + 1) * history];
                conv.sequence(x, taps, b).carry(state);
            }
        }
    });
}

/// The gradients of x, of the parameters and of the initial state, from `dy` and, where the final state was used, its gradient.
///
/// # Panics
/// If the shapes disagree.
pub fn backward(conv: &Conv, x: Mat, dy: Mat, d_final_state: Option<&[f32]>, grads: Gradients) {
    let channels = x.cols();
    conv.check(x);
    conv.check_state(d_final_state, channels);
    conv.check_state(grads.dinitial_state.as_deref(), channels);
    assert_eq!((dy.rows(), dy.cols()), (x.rows(), channels), "dy");
    assert_eq!(
        (grads.dx.rows(), grads.dx.cols()),
        (x.rows(), channels),
        "dx"
    );
    assert_eq!(grads.dweight.len(), conv.weight.len(), "dweight");
    let history = (conv.width - 1) * channels;
    let parameters = (conv.width + 1) * channels;
    // An empty sequence still hands the gradient of its final state to its initial one.
    let chunk = conv.chunk();
    let chunks = conv.length.div_ceil(chunk).max(1);
    let tasks = conv.batch * chunks;
    let dinitial_state = grads.dinitial_state.map(|all| {
        let len = all.len();
        MatMut::new(all, 1, len, len, 0)
    });
    conv.with_taps(channels, |taps| {
        with_scratch((tasks + 1) * parameters, |partials| {
            let (partials, total) = partials.split_at_mut(tasks * parameters);
            let shared = MatMut::new(partials, tasks, parameters, parameters, 0);
            for_each_task(x.rows() * channels, tasks, |task| {
                let (b, from) = (task / chunks, task % chunks * chunk);
                let state = b * history..(b + 1) * history;
                with_scratch(conv.width * channels, |ring| {
                    simd::dispatch(Backward {
                        sequence: conv.sequence(x, taps, b),
                        steps: (from, conv.length.min(from + chunk)),
                        dy,
                        d_final_state: d_final_state.map(|all| &all[state.clone()]),
                        dx: &grads.dx,
                        dinitial_state: dinitial_state.as_ref().filter(|_| from == 0).map(|all| {
                            // SAFETY: of the tasks of a sequence only the first writes the gradient of its initial state.
                            unsafe { all.part(0, state.start, state.end) }
                        }),
                        // SAFETY: each task has its own row of partial sums.
                        dtaps: unsafe { shared.part(task, 0, parameters) },
                        ring,
                    });
                });
            });
            sum_rows(
                Mat::new(partials, tasks, parameters, parameters, 0),
                total,
                false,
            );
            let total = Mat::new(total, conv.width + 1, channels, channels, 0);
            write_parameters(total, grads.dweight, grads.dbias, grads.accumulate);
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
