//! Pooling on the processor: lanes over the columns, threads over parts of sequences.

use std::ops::Range;

use serpens_core::{Mat, MatMut};

use super::parts::PART;
use super::{Attended, Parts, Pooling};
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::for_each_task;
use crate::simd::{self, Simd, WithSimd, exp, load, store};

/// Columns that a task sums over the parts of a sequence.
const STRETCH: usize = 256;

/// What stands before the sums of a part: its largest score, and the sum of its weights.
const NORM: usize = 2;

/// Below every score of use: of nothing but −∞ the weights are then 0.
const LOWEST: f32 = f32::MIN;

/// y\[s\], and of each sequence the largest score and the sum of e^(score − that), which are 0 and the number of rows
/// where there are no scores.
///
/// # Panics
/// If the shapes disagree.
pub fn forward(
    kind: Pooling,
    x: Mat,
    scores: Option<Mat>,
    parts: &Parts,
    y: MatMut,
    norms: MatMut,
) {
    let (rows, width, sequences) = (x.rows(), x.cols(), parts.sequences());
    assert_eq!(rows, parts.bound(sequences), "rows");
    assert_eq!([y.rows(), y.cols()], [sequences, width], "y");
    assert_eq!([norms.rows(), norms.cols()], [sequences, NORM], "norms");
    for scores in scores.iter() {
        assert_eq!([scores.rows(), scores.cols()], [rows, 1], "scores");
    }
    if kind == Pooling::Last {
        return for_each_task(sequences * width, sequences, |sequence| {
            // SAFETY: each task has its own row.
            let y = unsafe { y.part(sequence, 0, width) };
            y.copy_from_slice(x.row(parts.bound(sequence + 1) - 1));
        });
    }
    let (count, stride) = (parts.count(), NORM + width);
    with_scratch(count * stride, |sums| {
        let shared = MatMut::new(sums, count, stride, stride, 0);
        for_each_task(rows * width, count, |part| {
            let rows = parts.part(part).1;
            // SAFETY: each task has its own row of sums.
            let out = unsafe { shared.part(part, 0, stride) };
            simd::dispatch(SumPart {
                x,
                scores,
                rows,
                out,
            });
        });
        let sums = Mat::new(sums, count, stride, stride, 0);
        let stretches = width.div_ceil(STRETCH);
        for_each_task(count * width, sequences * stretches, |task| {
            let (sequence, stretch) = (task / stretches, task % stretches);
            let (from, to) = (stretch * STRETCH, width.min((stretch + 1) * STRETCH));
            let parts = parts.first(sequence)..parts.first(sequence + 1);
            // SAFETY: each task has its own columns of a row.
            let y = unsafe { y.part(sequence, from, to) };
            let norm = simd::dispatch(SumSequence {
                sums,
                parts,
                from: NORM + from,
                y,
            });
            if stretch == 0 {
                // SAFETY: the sequence has one such task.
                unsafe { norms.part(sequence, 0, NORM) }.copy_from_slice(&norm);
            }
        });
    });
}

/// out = the largest of the scores, the sum of the weights e^(score − that), the weighted sum of the rows.
struct SumPart<'a> {
    x: Mat<'a>,
    scores: Option<Mat<'a>>,
    rows: Range<usize>,
    out: &'a mut [f32],
}

impl WithSimd for SumPart<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            x,
            scores,
            rows,
            out,
        } = self;
        let mut weights = [1.0_f32; PART];
        let weights = &mut weights[..rows.len()];
        let (norm, sums) = out.split_at_mut(NORM);
        norm[0] = 0.0;
        if let Some(scores) = scores {
            norm[0] = LOWEST;
            for (weight, row) in weights.iter_mut().zip(rows.clone()) {
                *weight = scores.row(row)[0];
                norm[0] = norm[0].max(*weight);
            }
            let max = s.splat_f32s(norm[0]);
            for t in (0..weights.len()).step_by(S::F32_LANES) {
                let weight = exp(s, s.sub_f32s(load(s, &weights[t..]), max));
                store(s, &mut weights[t..], weight);
            }
        }
        norm[1] = 0.0;
        sums.fill(0.0);
        for (&weight, row) in weights.iter().zip(rows) {
            norm[1] += weight;
            add_weighted(s, sums, weight, x.row(row));
        }
    }
}

/// to += weight · row.
#[inline(always)]
fn add_weighted<S: Simd>(s: S, to: &mut [f32], weight: f32, row: &[f32]) {
    let weight = s.splat_f32s(weight);
    for c in (0..to.len()).step_by(S::F32_LANES) {
        let sum = s.mul_add_f32s(weight, load(s, &row[c..]), load(s, &to[c..]));
        store(s, &mut to[c..], sum);
    }
}

/// y = the columns from `from` on of these parts' sums, as one softmax weights them. Gives the norm of that.
struct SumSequence<'a> {
    sums: Mat<'a>,
    parts: Range<usize>,
    from: usize,
    y: &'a mut [f32],
}

impl WithSimd for SumSequence<'_> {
    type Output = [f32; NORM];

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> [f32; NORM] {
        let Self {
            sums,
            parts,
            from,
            y,
        } = self;
        let mut max = LOWEST;
        for part in parts.clone() {
            max = max.max(sums.row(part)[0]);
        }
        let mut total = 0.0_f32;
        y.fill(0.0);
        for part in parts {
            let row = sums.row(part);
            let weight = (row[0] - max).exp();
            total = weight.mul_add(row[1], total);
            add_weighted(s, y, weight, &row[from..from + y.len()]);
        }
        let divisor = s.splat_f32s(total);
        for c in (0..y.len()).step_by(S::F32_LANES) {
            let mean = s.div_f32s(load(s, &y[c..]), divisor);
            store(s, &mut y[c..], mean);
        }
        [max, total]
    }
}

/// dx\[t\] = p\[t\] dy\[s\] and, of attention, dscores\[t\] = p\[t\] ⟨x\[t\] − y\[s\], dy\[s\]⟩ for every row t, of
/// sequence s; `norms` as [`forward`] gives them.
///
/// # Panics
/// If the shapes disagree.
pub fn backward(
    kind: Pooling,
    parts: &Parts,
    norms: Mat,
    dy: Mat,
    attended: Option<Attended<Mat, MatMut>>,
    dx: MatMut,
) {
    let (rows, width, sequences) = (dx.rows(), dx.cols(), parts.sequences());
    assert_eq!(rows, parts.bound(sequences), "rows");
    assert_eq!([dy.rows(), dy.cols()], [sequences, width], "dy");
    assert_eq!([norms.rows(), norms.cols()], [sequences, NORM], "norms");
    if let Some(Attended {
        x,
        scores,
        y,
        dscores,
    }) = &attended
    {
        assert_eq!([x.rows(), x.cols()], [rows, width], "x");
        assert_eq!([y.rows(), y.cols()], [sequences, width], "y");
        assert_eq!([scores.rows(), scores.cols()], [rows, 1], "scores");
        assert_eq!([dscores.rows(), dscores.cols()], [rows, 1], "dscores");
    }
    for_each_task(rows * width, parts.count(), |part| {
        let (sequence, rows) = parts.part(part);
        let (last, dy) = (parts.bound(sequence + 1) - 1, dy.row(sequence));
        let norm = norms.row(sequence);
        for row in rows {
            // SAFETY: each task has its own rows.
            let dx = unsafe { dx.part(row, 0, width) };
            if kind == Pooling::Last {
                match row == last {
                    true => dx.copy_from_slice(dy),
                    false => dx.fill(0.0),
                }
                continue;
            }
            let Some(attended) = &attended else {
                simd::dispatch(Scaled {
                    weight: 1.0 / norm[1],
                    dy,
                    dx,
                });
                continue;
            };
            let weight = (attended.scores.row(row)[0] - norm[0]).exp() / norm[1];
            let (x, y) = (attended.x.row(row), attended.y.row(sequence));
            let along = simd::dispatch(Along { x, y, dy });
            // SAFETY: as above.
            let dscores = unsafe { attended.dscores.part(row, 0, 1) };
            dscores[0] = weight * along;
            simd::dispatch(Scaled { weight, dy, dx });
        }
    });
}

/// dx = weight · dy.
struct Scaled<'a> {
    weight: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let weight = s.splat_f32s(self.weight);
        for c in (0..self.dx.len()).step_by(S::F32_LANES) {
            let scaled = s.mul_f32s(weight, load(s, &self.dy[c..]));
            store(s, &mut self.dx[c..], scaled);
        }
    }
}

/// ⟨x − y, dy⟩.
struct Along<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
}

impl WithSimd for Along<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let mut sum = s.splat_f32s(0.0);
        for c in (0..self.x.len()).step_by(S::F32_LANES) {
            let beside = s.sub_f32s(load(s, &self.x[c..]), load(s, &self.y[c..]));
            sum = s.mul_add_f32s(beside, load(s, &self.dy[c..]), sum);
        }
        s.reduce_sum_f32s(sum)
    }
}
