//! The causal long convolution on the processor.
//!
//! Tasks are tiles of 32 channels by one batch item (or a fixed group of items), so the result does not depend on the
//! number of threads. A correlation is a convolution in reversed time, so forward and backward share one product.
//! Short sequences are convolved by definition, longer ones by a Fourier transform of at least `2·length - 1` points.

mod complex;
mod direct;
mod fft;
mod spectrum;
mod tile;

use bytemuck::Zeroable;
use rayon::prelude::*;
use serpens_core::MatMut;

use self::fft::TransformPlan;
use self::tile::{Row, Time, WIDTH};
use super::LongConvDims;

/// The longest sequence convolved by definition; beyond it the Fourier transform is faster (measured on AVX-512 and
/// AVX2).
pub(super) const DIRECT_LENGTH: usize = 64;

/// Batch items whose contributions to `dk` one task adds up.
const GROUP: usize = 4;

impl LongConvDims {
    /// Checks the lengths of `(batch, length, channels)` slices and of `(length, channels)` ones.
    fn check(self, batched: &[&[f32]], kernels: &[&[f32]]) {
        let kernel = self.length * self.channels;
        for slice in batched {
            assert_eq!(
                slice.len(),
                self.batch * kernel,
                "a slice is not (batch, length, channels) = {self:?}"
            );
        }
        for slice in kernels {
            assert_eq!(
                slice.len(),
                kernel,
                "a kernel is not (length, channels) of {self:?}"
            );
        }
    }
}

/// `y[b,t,e] = Σ_{s≤t} k[s,e] · u[b,t-s,e]`, with `u`, `y` `(batch, length, channels)` and `k` `(length, channels)`.
///
/// # Panics
/// If a slice's length does not follow from `dims`.
pub fn forward(u: &[f32], k: &[f32], y: &mut [f32], dims: LongConvDims) {
    dims.check(&[u, y], &[k]);
    convolve(u, k, y, dims, Time::Forward);
}

/// The gradients `du` `(batch, length, channels)` and `dk` `(length, channels)` for the gradient `dy` of [`forward`]'s
/// result; what is `None` is not computed. `du` and `dk` are overwritten.
///
/// # Panics
/// If a slice's length does not follow from `dims`.
pub fn backward(
    u: &[f32],
    k: &[f32],
    dy: &[f32],
    du: Option<&mut [f32]>,
    dk: Option<&mut [f32]>,
    dims: LongConvDims,
) {
    dims.check(&[u, dy], &[k]);
    match (du, dk) {
        (None, None) => {}
        (Some(du), None) => {
            dims.check(&[du], &[]);
            convolve(dy, k, du, dims, Time::Reversed);
        }
        (du, Some(dk)) => {
            du.iter().for_each(|du| dims.check(&[du], &[]));
            dims.check(&[], &[dk]);
            correlate(u, k, dy, du, dk, dims);
        }
    }
}

/// `y = k * u` along each channel, with both `u` and `y` read in the given direction of time.
fn convolve(u: &[f32], k: &[f32], y: &mut [f32], dims: LongConvDims, time: Time) {
    if dims.is_empty() {
        return;
    }
    let LongConvDims {
        batch,
        length,
        channels,
    } = dims;
    let method = Method::new(length);
    let kernel = method.kernel(k, channels);
    let y = MatMut::dense(y, channels);
    (0..channels.div_ceil(WIDTH) * batch)
        .into_par_iter()
        .for_each_init(
            || [method.tile(), method.tile()],
            |[x, out], task| {
                let (tile, item) = (task / batch, task % batch);
                method.load(
                    &u[item * length * channels..][..length * channels],
                    channels,
                    tile,
                    time,
                    x,
                );
                method.multiply(x, &kernel[tile * method.rows..][..method.rows], out, false);
                method.finish(out);
                // SAFETY: each task has its own batch item and tile of channels.
                unsafe {
                    tile::store(
                        out,
                        &y,
                        item * length..(item + 1) * length,
                        tile * WIDTH,
                        time,
                    )
                };
            },
        );
}

/// Both gradients at once; they share the transform of `dy`.
fn correlate(
    u: &[f32],
    k: &[f32],
    dy: &[f32],
    du: Option<&mut [f32]>,
    dk: &mut [f32],
    dims: LongConvDims,
) {
    if dims.is_empty() {
        return dk.fill(0.0);
    }
    let LongConvDims {
        batch,
        length,
        channels,
    } = dims;
    let method = Method::new(length);
    let du = du.map(|du| (method.kernel(k, channels), MatMut::dense(du, channels)));
    let groups = batch.div_ceil(GROUP);
    let mut sums = vec![Row::zeroed(); channels.div_ceil(WIDTH) * groups * method.rows]; // (tiles, groups, rows)
    sums.par_chunks_mut(method.rows).enumerate().for_each_init(
        || [method.tile(), method.tile(), method.tile()],
        |[x, reversed, out], (task, sum)| {
            let (tile, group) = (task / groups, task % groups);
            for item in (group * GROUP..batch).take(GROUP) {
                let range = item * length * channels..(item + 1) * length * channels;
                method.load(&dy[range.clone()], channels, tile, Time::Reversed, reversed);
                method.load(&u[range], channels, tile, Time::Forward, x);
                method.multiply(reversed, x, sum, true);
                if let Some((kernel, du)) = &du {
                    method.multiply(
                        reversed,
                        &kernel[tile * method.rows..][..method.rows],
                        out,
                        false,
                    );
                    method.finish(out);
                    // SAFETY: each task has its own batch items and tile of channels.
                    unsafe {
                        let rows = item * length..(item + 1) * length;
                        tile::store(out, du, rows, tile * WIDTH, Time::Reversed);
                    };
                }
            }
        },
    );
    let dk = MatMut::dense(dk, channels);
    sums.par_chunks_mut(groups * method.rows)
        .enumerate()
        .for_each(|(tile, sums)| {
            let sum = add_groups(sums, method.rows);
            method.finish(sum);
            // SAFETY: each task has its own tile of channels.
            unsafe { tile::store(sum, &dk, 0..length, tile * WIDTH, Time::Reversed) };
        });
}

/// Adds the tiles of the other groups to that of the first, which is returned.
fn add_groups(sums: &mut [Row], rows: usize) -> &mut [Row] {
    let (sum, others) = sums.split_at_mut(rows);
    for other in others.chunks_exact(rows) {
        let sum = bytemuck::cast_slice_mut::<_, f32>(sum);
        for (a, b) in sum.iter_mut().zip(bytemuck::cast_slice::<_, f32>(other)) {
            *a += b;
        }
    }
    sum
}

/// How sequences of one length are convolved.
struct Method {
    /// Rows of a tile, padding included.
    rows: usize,
    /// The Fourier transform; none for a convolution by definition.
    plan: Option<&'static TransformPlan>,
}

impl Method {
    fn new(length: usize) -> Method {
        if length <= DIRECT_LENGTH {
            return Method {
                rows: length.next_multiple_of(direct::BLOCK),
                plan: None,
            };
        }
        let rows = (2 * length - 1).next_power_of_two();
        Method {
            rows,
            plan: Some(TransformPlan::get(rows)),
        }
    }

    fn tile(&self) -> Vec<Row> {
        vec![Row::zeroed(); self.rows]
    }

    /// Reads a tile's channels of `matrix` `(length, channels)` into the form that [`Method::multiply`] takes.
    fn load(&self, matrix: &[f32], channels: usize, tile: usize, time: Time, rows: &mut [Row]) {
        tile::load(matrix, channels, tile * WIDTH, time, rows);
        if let Some(plan) = self.plan {
            plan.forward(rows);
            spectrum::separate(rows);
        }
    }

    /// All tiles of the kernel `(length, channels)`, loaded.
    fn kernel(&self, k: &[f32], channels: usize) -> Vec<Row> {
        let mut tiles = vec![Row::zeroed(); channels.div_ceil(WIDTH) * self.rows];
        let load =
            |(tile, rows): (usize, &mut [Row])| self.load(k, channels, tile, Time::Forward, rows);
        tiles.par_chunks_mut(self.rows).enumerate().for_each(load);
        tiles
    }

    /// The convolution of two loaded tiles, added to `out` if `add`; several can be summed before [`Method::finish`].
    fn multiply(&self, a: &[Row], b: &[Row], out: &mut [Row], add: bool) {
        match self.plan {
            Some(_) => spectrum::multiply(a, b, out, add),
            None => direct::convolve(b, a, out, add),
        }
    }

    /// Turns a product into steps of time.
    fn finish(&self, rows: &mut [Row]) {
        if let Some(plan) = self.plan {
            spectrum::combine(rows);
            plan.inverse(rows);
        }
    }
}
