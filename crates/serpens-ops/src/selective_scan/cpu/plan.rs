//! How a scan is divided into tasks, and where the steps of a task lie. Everything here follows from the sizes and the
//! instruction set alone, never from the number of threads, so that sums have one order.

use super::{Dims, Scan};
pub(super) use crate::selective_scan::operands::CHUNK;

/// Steps that the backward takes between two foldings of the partial sums of dB and dC.
pub(super) const ROUND: usize = 512;

/// Tasks wanted per scan, where there is enough work: a few for each thread of a desktop.
const TASKS: usize = 16;

/// Tiles of one task at most, so that what it works on stays in the second-level cache.
const MAX_TILES: usize = 16;

/// With so few tiles in all, or fewer, long sequences are cut in segments of time, which costs a second pass.
const FEW_TILES: usize = 2;

/// Shortest segment of time, and the most segments.
const SEGMENT: usize = 2048;
const MAX_SEGMENTS: usize = 16;

/// A range of channels of one group, and of steps of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub batch: usize,
    pub group: usize,
    /// First channel and number of channels.
    pub channel: usize,
    pub channels: usize,
    /// Its segment among those of all sequences: the row of what is kept for each.
    pub segment: usize,
    /// Steps `from..to` in the order of the recurrence.
    pub from: usize,
    pub to: usize,
}

/// How a scan is divided.
pub(super) struct ScanPlan {
    pub tasks: Vec<Task>,
    /// Of each sequence.
    pub segments: usize,
    /// Tasks that share a group and a segment, which are neighbours in `tasks`.
    pub per_group: usize,
    /// Most tiles of one task.
    pub tiles: usize,
}

impl ScanPlan {
    pub(super) fn new(dims: &Dims, lanes: usize) -> Self {
        let group_tiles = dims.group_channels().div_ceil(lanes);
        let all_tiles = dims.batch * dims.groups * group_tiles;
        let segments = if all_tiles <= FEW_TILES {
            (dims.length / SEGMENT).clamp(1, MAX_SEGMENTS)
        } else {
            1
        };
        let wanted = if segments > 1 {
            group_tiles
        } else {
            (all_tiles / TASKS).clamp(1, MAX_TILES)
        };
        let per_group = group_tiles.div_ceil(wanted).max(1);
        let tiles = group_tiles.div_ceil(per_group).max(1);
        let per_group = group_tiles.div_ceil(tiles).max(1);
        let segment_steps = dims.length.div_ceil(segments).next_multiple_of(CHUNK);
        let mut tasks = Vec::with_capacity(dims.batch * dims.groups * segments * per_group);
        for batch in 0..dims.batch {
            for group in 0..dims.groups {
                for segment in 0..segments {
                    for i in 0..per_group {
                        let first = i * tiles * lanes;
                        tasks.push(Task {
                            batch,
                            group,
                            channel: group * dims.group_channels() + first,
                            channels: (tiles * lanes).min(dims.group_channels() - first),
                            segment: batch * segments + segment,
                            from: (segment * segment_steps).min(dims.length),
                            to: ((segment + 1) * segment_steps).min(dims.length),
                        });
                    }
                }
            }
        }
        Self {
            tasks,
            segments,
            per_group,
            tiles,
        }
    }
}

/// Up to [`CHUNK`] steps of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// The row of step `i` is `row + i`, or `row - i` in reverse.
    row: usize,
    reverse: bool,
    pub steps: usize,
    /// Whether the state resets before a step.
    pub resets: [bool; CHUNK],
}

impl Chunk {
    /// The steps `from..to` of `batch`, at most [`CHUNK`].
    #[inline(always)]
    pub(super) fn new(scan: &Scan, batch: usize, from: usize, to: usize) -> Self {
        let length = scan.dims.length;
        let row = if scan.reverse {
            (batch + 1) * length - 1 - from
        } else {
            batch * length + from
        };
        let mut chunk = Self {
            row,
            reverse: scan.reverse,
            steps: to - from,
            resets: [false; CHUNK],
        };
        if let Some(starts) = scan.starts {
            for i in 0..chunk.steps {
                chunk.resets[i] = starts[chunk.row(i)];
            }
        }
        chunk
    }

    /// The row of step `i` in u, Δ, z, B, C and out.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> usize {
        if self.reverse {
            self.row - i
        } else {
            self.row + i
        }
    }
}
