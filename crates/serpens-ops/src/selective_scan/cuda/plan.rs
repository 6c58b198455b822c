//! How the forward scan, and the passes before segments of time, are spread over a card.

use serpens_core::DType;

use super::Dims;
use crate::selective_scan::operands::CHUNK;

/// The most shared memory that a block has on every card.
pub(super) const SHARED_LIMIT: usize = 99 * 1024;
/// That of a multiprocessor of the cards for data centres, of which each block takes a kilobyte for itself.
const MULTIPROCESSOR_SHARED: usize = 228 * 1024;

/// Of a multiprocessor.
const SCHEDULERS: usize = 4;

/// What a multiprocessor with this many blocks takes for 2048 steps, whose lanes have so many numbers each:
/// microseconds, as measured on an H100 for 16 states, of bfloat16 and a real A. It is for comparing only.
fn cost(per_lane: usize, blocks: usize) -> usize {
    match (per_lane, blocks) {
        (1, n) => 33 * n,
        (2, n) => 15 + 34 * n,
        (4, 1) => 66,
        (4, 2) => 108,
        (4, n) => 1 + 53 * n,
        (numbers, 1) => 16 * numbers,
        (numbers, n) => 13 * numbers * n,
    }
}

/// How a scan is spread over threads; the names are those of the kernel's macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForwardPlan {
    /// Lanes that share a channel, and the numbers of its state that each holds.
    pub split: usize,
    pub per_lane: usize,
    /// Warps with the recurrence, and with everything else.
    pub warps: usize,
    pub helpers: usize,
    /// Steps that they exchange at a time, and tiles of copies under way or in use.
    pub tile: usize,
    pub stages: usize,
    /// Channels of one step that a helper takes at once.
    pub width: usize,
    /// Segments of time.
    pub segments: usize,
}

impl ForwardPlan {
    /// As many lanes for a channel, and segments of time, as take the least time: more of them keep more schedulers
    /// busy, but lanes cost more for their sums, and segments a pass before.
    pub fn new(dims: &Dims, dtype: DType, starts: bool, multiprocessors: u32) -> Self {
        let multiprocessors = multiprocessors as usize;
        let plans = Self::of_all_splits(dims, dtype);
        plans
            .flat_map(|plan| plan.in_segments(dims, multiprocessors))
            .min_by_key(|plan| plan.time(dims, multiprocessors))
            .expect("at least one plan")
            .fitting(dims, dtype, starts)
    }

    /// That of the pass before a backward scan (of a real A) with so many segments.
    pub fn back(
        dims: &Dims,
        dtype: DType,
        starts: bool,
        multiprocessors: u32,
        segments: usize,
    ) -> Self {
        let plans = Self::of_all_splits(dims, dtype).filter(|plan| !plan.for_few_channels(dims));
        plans
            .map(|plan| Self { segments, ..plan })
            .min_by_key(|plan| plan.pass(dims, segments - 1, multiprocessors as usize))
            .expect("at least one plan")
            .fitting(dims, dtype, starts)
    }

    /// From the fewest lanes for a channel that registers allow to the most that are worth while.
    fn of_all_splits(dims: &Dims, dtype: DType) -> impl Iterator<Item = Self> {
        let dims = *dims;
        let most = dims.state.next_power_of_two().min(16);
        let numbers = 16 / dtype.size() / dims.parts();
        let least = dims.state.next_power_of_two().div_ceil(numbers).min(most);
        std::iter::successors(Some(least), |split| Some(split * 2))
            .take_while(move |&split| split <= most)
            .map(move |split| Self::with_split(split, &dims, dtype))
    }

    /// This plan, or what is left of it in the shared memory of every card.
    fn fitting(self, dims: &Dims, dtype: DType, starts: bool) -> Self {
        let mut plan = self;
        while plan.shared_bytes(dims, dtype, starts) > SHARED_LIMIT {
            plan = plan.smaller(dims, dtype);
        }
        plan
    }

    /// Whether it is that of the kernel for few channels.
    pub fn for_few_channels(&self, dims: &Dims) -> bool {
        (self.split, self.per_lane, dims.complex) == (16, 1, false)
    }

    fn with_split(split: usize, dims: &Dims, dtype: DType) -> Self {
        let tile = match split {
            1 | 2 => 16,
            4 => 64 / dtype.size(),
            _ => 32,
        };
        let plan = Self {
            split,
            per_lane: dims.state.div_ceil(split).next_power_of_two(),
            warps: if split == 1 { 2 } else { 4 },
            helpers: 0,
            tile,
            stages: if tile == 32 && split == 4 { 4 } else { 5 },
            width: 0,
            segments: 1,
        };
        plan.with_helpers(dtype)
    }

    /// This plan whole, and, for a real A and more than one number for a lane, in as many segments as give every
    /// multiprocessor one to four blocks.
    fn in_segments(self, dims: &Dims, multiprocessors: usize) -> Vec<Self> {
        let most = if !dims.complex && self.per_lane > 1 {
            4
        } else {
            0
        };
        let chunks = dims.length.div_ceil(CHUNK);
        let cut = (1..=most).map(move |blocks| {
            let segments = blocks * multiprocessors / self.blocks_of(dims).max(1);
            let segments = segments.clamp(1, chunks.max(1));
            Self { segments, ..self }
        });
        std::iter::once(self).chain(cut).collect()
    }

    /// What the scan takes, in units of 2048 steps of `cost`.
    fn time(&self, dims: &Dims, multiprocessors: usize) -> usize {
        /// The launches of two more kernels.
        const LAUNCHES: usize = 6 * 2048;
        match self.segments {
            1 => self.pass(dims, 1, multiprocessors),
            // A tenth more, since this is the less certain.
            segments => {
                let before = 6 * self.pass(dims, segments - 1, multiprocessors) / 10;
                11 * (self.pass(dims, segments, multiprocessors) + before + LAUNCHES) / 10
            }
        }
    }

    /// What a scan over so many of its segments takes, in the same unit.
    fn pass(&self, dims: &Dims, segments: usize, multiprocessors: usize) -> usize {
        /// What a block takes before its first step, in steps.
        const BEGIN: usize = 96;
        let blocks = (self.blocks_of(dims) * segments).div_ceil(multiprocessors);
        let chunks = dims.length.div_ceil(CHUNK).div_ceil(self.segments);
        cost(self.per_lane, blocks) * (chunks * CHUNK + BEGIN)
    }

    /// A helper for every scheduler, with at most 16 bytes of a step.
    fn with_helpers(self, dtype: DType) -> Self {
        let values = self.tile * self.channels();
        let width = (values / (32 * SCHEDULERS)).clamp(1, 16 / dtype.size());
        Self {
            width,
            helpers: values / width / 32,
            ..self
        }
    }

    /// With less shared memory, for a large N.
    fn smaller(self, dims: &Dims, dtype: DType) -> Self {
        if self.stages > 3 {
            return Self { stages: 3, ..self };
        }
        if self.tile > self.split.max(4) {
            let tile = self.tile / 2;
            return Self { tile, ..self }.with_helpers(dtype);
        }
        let plan = Self::with_split(self.split / 2, dims, dtype);
        Self {
            tile: self.tile,
            stages: 3,
            segments: self.segments,
            ..plan
        }
        .with_helpers(dtype)
    }

    /// Blocks that a multiprocessor must hold, which limits the registers of a thread: to 80, or to 128 with many
    /// numbers, where shared memory leaves room for so many blocks.
    pub fn blocks(&self, shared_bytes: usize) -> usize {
        let warps = if self.per_lane > 4 { 16 } else { 24 };
        let room = MULTIPROCESSOR_SHARED / (shared_bytes + 1024);
        (warps / (self.warps + self.helpers)).min(room).max(1)
    }

    /// Channels of a block.
    pub fn channels(&self) -> usize {
        self.warps * 32 / self.split
    }

    /// Blocks of a scan.
    pub fn blocks_of(&self, dims: &Dims) -> usize {
        dims.batch * dims.groups * (dims.channels / dims.groups).div_ceil(self.channels())
    }

    /// The size of the kernel's `Shared`, at most: as if B and C were copied in accesses of 16 bytes.
    pub fn shared_bytes(&self, dims: &Dims, dtype: DType, starts: bool) -> usize {
        let (tile, channels, parts) = (self.tile, self.channels(), dims.parts());
        let own = 3 * self.stages * tile * channels * dtype.size();
        let values = 32 * self.helpers * 16 / dtype.size();
        let bc = self.stages * (tile * 2 * dims.width()).next_multiple_of(values) * dtype.size();
        let steps = 2 * (channels * (tile + 2) + channels.div_ceil(8) * 4) * 8;
        let bc_f32 = 4 * self.split * (tile * parts * self.per_lane + 4) * 4;
        let resets = 2 * if starts { tile } else { 4 } * 4;
        let y = 2 * self.split * (tile * (channels + 4) + (32 / self.split).max(4)) * 4;
        own + bc + steps + bc_f32 + resets + y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_channels_are_spread_over_more_lanes() {
        let split = |batch, channels| {
            let dims = Dims {
                batch,
                length: 2048,
                channels,
                state: 16,
                complex: false,
                groups: 1,
            };
            ForwardPlan::new(&dims, DType::BF16, false, 132).split
        };
        assert_eq!(split(1, 1024), 16);
        assert_eq!(split(1, 1536), 8);
        assert_eq!(split(2, 1536), 4);
        assert_eq!(split(4, 2048), 4);
        assert_eq!(split(8, 1536), 4);
        assert_eq!(split(8, 4096), 2);
    }

    #[test]
    fn long_sequences_of_few_channels_are_cut_into_segments() {
        for (complex, length, cut) in [
            (false, 131_072, true),
            (false, 524_289, true),
            (false, 2048, false),
            (false, 1, false),
            (true, 131_072, false),
        ] {
            let dims = Dims {
                batch: 1,
                length,
                channels: 1024,
                state: 16,
                complex,
                groups: 1,
            };
            let plan = ForwardPlan::new(&dims, DType::BF16, false, 132);
            assert_eq!(plan.segments > 1, cut, "{plan:?}");
            assert!(plan.segments <= length.div_ceil(CHUNK), "{plan:?}");
        }
    }

    #[test]
    fn plans_fit_every_state_size() {
        for state in 1..=256 {
            for (complex, dtype) in [
                (false, DType::BF16),
                (false, DType::F32),
                (true, DType::BF16),
                (true, DType::F32),
            ] {
                for channels in [1, 1024, 100_000] {
                    let dims = Dims {
                        batch: 1,
                        length: 1,
                        channels,
                        state,
                        complex,
                        groups: 1,
                    };
                    let plan = ForwardPlan::new(&dims, dtype, true, 132);
                    assert!(plan.split * plan.per_lane >= state, "{plan:?}");
                    assert!(plan.tile >= plan.split.max(4), "{plan:?}");
                    let values = plan.helpers * 32 * plan.width;
                    assert_eq!(values, plan.tile * plan.channels(), "{plan:?}");
                    assert!(plan.shared_bytes(&dims, dtype, true) <= SHARED_LIMIT);
                }
            }
        }
    }
}
