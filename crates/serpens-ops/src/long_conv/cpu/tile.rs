//! A tile: 32 neighbouring channels of a `(length, channels)` matrix, copied into rows that SIMD loads like.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use serpens_core::MatMut;

/// Channels in a tile.
pub(super) const WIDTH: usize = 32;

/// One time step (or one frequency) of a tile. For the Fourier transform the first 16 channels are the real parts and
/// the last 16 the imaginary parts of 16 complex numbers, so two real sequences share one complex transform.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Row(pub [f32; WIDTH]);

/// The order in which time runs through a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// Row `t` holds step `t`.
    Forward,
    /// Row `t` holds step `length - 1 - t`: a correlation is a convolution in reversed time.
    Reversed,
}

impl Time {
    /// The time step held by row `row`.
    pub(super) fn step(self, row: usize, length: usize) -> usize {
        match self {
            Time::Forward => row,
            Time::Reversed => length - 1 - row,
        }
    }
}

/// Copies the channels from `first` on of `matrix` `(length, channels)` into `tile`, with zeros where there is nothing.
pub(super) fn load(matrix: &[f32], channels: usize, first: usize, time: Time, tile: &mut [Row]) {
    let length = matrix.len() / channels;
    let width = WIDTH.min(channels - first);
    let (steps, padding) = tile.split_at_mut(length);
    for (row, Row(lanes)) in steps.iter_mut().enumerate() {
        let step = &matrix[time.step(row, length) * channels + first..][..width];
        match <&[f32; WIDTH]>::try_from(step) {
            Ok(full) => *lanes = *full,
            Err(_) => {
                lanes[..width].copy_from_slice(step);
                lanes[width..].fill(0.0);
            }
        }
    }
    padding.fill(Row::zeroed());
}

/// Copies `tile` to the channels from `first` on of the given rows of `matrix`.
///
/// # Safety
/// No other thread uses these channels of these rows at the same time.
pub(super) unsafe fn store(
    tile: &[Row],
    matrix: &MatMut,
    rows: Range<usize>,
    first: usize,
    time: Time,
) {
    let last = matrix.cols().min(first + WIDTH);
    for (row, Row(lanes)) in tile[..rows.len()].iter().enumerate() {
        let step = rows.start + time.step(row, rows.len());
        // SAFETY: as the caller promises; different rows of a tile are different steps.
        let target = unsafe { matrix.part(step, first, last) };
        match <&mut [f32; WIDTH]>::try_from(&mut *target) {
            Ok(full) => *full = *lanes,
            Err(_) => target.copy_from_slice(&lanes[..last - first]),
        }
    }
}
