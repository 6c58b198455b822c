//! Heads by factors and offsets on the processor: lanes over the columns of x, threads over rows.

use serpens_core::{Mat, MatMut};

use crate::elementwise::cpu::sum_rows;
use crate::shared::scratch::with_scratch;
use crate::shared::tasks::{SMALL, for_each_task, reduction_block};
use crate::simd::{self, Simd, WithSimd, load, store};

/// y\[r, h·s + i\] = x\[r, i\] · scale\[h·s + i\] + offset\[h·s + i\].
///
/// # Panics
/// If the shapes disagree.
pub fn forward(x: Mat, scale: &[f32], offset: &[f32], y: MatMut) {
    let (rows, width) = (x.rows(), scale.len());
    assert_heads(x, width);
    assert_eq!([y.rows(), y.cols()], [rows, width], "y");
    assert_eq!(offset.len(), width, "offset");
    let block = (SMALL / width).max(1);
    for_each_task(rows * width, rows.div_ceil(block), |task| {
        for r in task * block..rows.min((task + 1) * block) {
            simd::dispatch(ForwardRow {
                x: x.row(r),
                scale,
                offset,
                // SAFETY: each task has its own rows.
                y: unsafe { y.part(r, 0, width) },
            });
        }
    });
}

fn assert_heads(x: Mat, width: usize) {
    let whole = width > 0 && width.is_multiple_of(x.cols());
    assert!(whole, "the columns of x do not divide the scale");
}

struct ForwardRow<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    offset: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for ForwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            x,
            scale,
            offset,
            y,
        } = self;
        let factors = scale
            .chunks_exact(x.len())
            .zip(offset.chunks_exact(x.len()));
        for ((scale, offset), y) in factors.zip(y.chunks_exact_mut(x.len())) {
            for c in (0..x.len()).step_by(S::F32_LANES) {
                let [x, scale, offset] = [
                    load(s, &x[c..]),
                    load(s, &scale[c..]),
                    load(s, &offset[c..]),
                ];
                store(s, &mut y[c..], s.mul_add_f32s(x, scale, offset));
            }
        }
    }
}

/// dx\[r, i\] = Σ_h scale\[h·s + i\] · dy\[r, h·s + i\], dscale\[j\] = Σ_r dy\[r, j\] · x\[r, j mod s\],
/// doffset\[j\] = Σ_r dy\[r, j\].
///
/// # Panics
/// If the shapes disagree.
pub fn backward(
    dy: Mat,
    x: Mat,
    scale: &[f32],
    dx: MatMut,
    dscale: &mut [f32],
    doffset: &mut [f32],
) {
    let (rows, width) = (x.rows(), scale.len());
    assert_heads(x, width);
    assert_eq!([dy.rows(), dy.cols()], [rows, width], "dy");
    assert_eq!([dx.rows(), dx.cols()], [rows, x.cols()], "dx");
    let block = reduction_block(rows);
    let blocks = rows.div_ceil(block);
    with_scratch(blocks * 2 * width, |partials| {
        let shared = MatMut::new(partials, blocks, 2 * width, 2 * width, 0);
        for_each_task(rows * width, blocks, |task| {
            // SAFETY: each task has its own row of partial sums.
            let sums = unsafe { shared.part(task, 0, 2 * width) };
            sums.fill(0.0);
            let (dscale, doffset) = sums.split_at_mut(width);
            for r in task * block..rows.min((task + 1) * block) {
                simd::dispatch(BackwardRow {
                    dy: dy.row(r),
                    x: x.row(r),
                    scale,
                    // SAFETY: each task has its own rows.
                    dx: unsafe { dx.part(r, 0, x.cols()) },
                    dscale,
                    doffset,
                });
            }
        });
        let half = |from| Mat::new(partials, blocks, width, 2 * width, from);
        sum_rows(half(0), dscale, false);
        sum_rows(half(width), doffset, false);
    });
}

struct BackwardRow<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    scale: &'a [f32],
    dx: &'a mut [f32],
    dscale: &'a mut [f32],
    doffset: &'a mut [f32],
}

impl WithSimd for BackwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            dy,
            x,
            scale,
            dx,
            dscale,
            doffset,
        } = self;
        for c in (0..x.len()).step_by(S::F32_LANES) {
            let (value, mut sum) = (load(s, &x[c..]), s.splat_f32s(0.0));
            for head in (0..dy.len()).step_by(x.len()) {
                let at = head + c..head + x.len();
                let slope = load(s, &dy[at.clone()]);
                sum = s.mul_add_f32s(load(s, &scale[at.clone()]), slope, sum);
                let (dscale, doffset) = (&mut dscale[at.clone()], &mut doffset[at]);
                let factor = s.mul_add_f32s(slope, value, load(s, dscale));
                store(s, dscale, factor);
                let shift = s.add_f32s(slope, load(s, doffset));
                store(s, doffset, shift);
            }
            store(s, &mut dx[c..], sum);
        }
    }
}
