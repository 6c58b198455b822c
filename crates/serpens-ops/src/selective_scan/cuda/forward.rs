//! The forward scan: how it is spread over a card, and its launch.

use serpens_core::cuda::{DevicePtr, Source, Variant, kernel, multiprocessors};
use serpens_core::{DType, Device, Error, Result, View, ViewMut};

use super::fold::Workspace;
use super::{A, Dims, Inputs, forward_few, in_pieces, ptr};

static SOURCE: Source = Source {
    name: "selective_scan_forward",
    text: concat!(
        include_str!("decay.cuh"),
        include_str!("forward.cuh"),
        include_str!("forward.cu")
    ),
};

/// The most shared memory that a block has on every card.
pub(super) const SHARED_LIMIT: usize = 99 * 1024;
/// That of a multiprocessor of the cards for data centres, of which each block takes a kilobyte for itself.
const MULTIPROCESSOR_SHARED: usize = 228 * 1024;

/// Of a multiprocessor.
const SCHEDULERS: usize = 4;

/// Steps between two checkpoints.
const CHECKPOINT: usize = 32;
const COMBINE_THREADS: usize = 128;

/// What a multiprocessor with this many blocks takes for 2048 steps, whose lanes have so many numbers each: microseconds, as
/// measured on an H100 for 16 states, of bfloat16 and a real A. It is for comparing only.
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
struct Plan {
    /// Lanes that share a channel, and the numbers of its state that each holds.
    split: usize,
    per_lane: usize,
    /// Warps with the recurrence, and with everything else.
    warps: usize,
    helpers: usize,
    /// Steps that they exchange at a time, and tiles of copies under way or in use.
    tile: usize,
    stages: usize,
    /// Channels of one step that a helper takes at once.
    width: usize,
    /// Segments of time, and the steps of each but the last.
    segments: usize,
    segment_steps: usize,
}

impl Plan {
    /// As many lanes for a channel, and segments of time, as take the least time: more of them keep more schedulers busy, but lanes
    /// cost more for their sums, and segments a pass before.
    fn new(dims: &Dims, parts: usize, dtype: DType, starts: bool, multiprocessors: u32) -> Self {
        let multiprocessors = multiprocessors as usize;
        let most = dims.state.next_power_of_two().min(16);
        let numbers = 16 / dtype.size() / parts;
        let least = dims.state.next_power_of_two().div_ceil(numbers).min(most);
        let splits = std::iter::successors(Some(least), |split| Some(split * 2));
        let plans = splits.take_while(|&split| split <= most).flat_map(|split| {
            let plan = Self::with_split(split, dims, dtype);
            plan.in_segments(dims, parts, multiprocessors)
        });
        let time = |plan: &Self| plan.time(dims, multiprocessors);
        let mut plan = plans.min_by_key(time).expect("at least one plan");
        while plan.shared_bytes(dims.state, parts, dtype, starts) > SHARED_LIMIT {
            plan = plan.smaller(dims, dtype);
        }
        plan
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
            segment_steps: dims.length,
        };
        plan.with_helpers(dtype)
    }

    /// This plan whole, and, for a real A and more than one number for a lane, in as many segments as give every multiprocessor one
    /// to four blocks.
    fn in_segments(self, dims: &Dims, parts: usize, multiprocessors: usize) -> Vec<Self> {
        let most = if parts == 1 && self.per_lane > 1 {
            4
        } else {
            0
        };
        let cut = (1..=most).filter_map(|blocks| {
            let segments = blocks * multiprocessors / self.blocks_of(dims).max(1);
            let segment_steps = dims
                .length
                .div_ceil(segments.max(1))
                .next_multiple_of(CHECKPOINT);
            (segment_steps < dims.length).then(|| Self {
                segments: dims.length.div_ceil(segment_steps),
                segment_steps,
                ..self
            })
        });
        std::iter::once(self).chain(cut).collect()
    }

    /// What the scan takes, in units of 2048 steps of `cost`.
    fn time(&self, dims: &Dims, multiprocessors: usize) -> usize {
        /// What a block takes before its first step, in steps, and the launches of two more kernels, in the unit of the result.
        const BEGIN: usize = 96;
        const LAUNCHES: usize = 6 * 2048;
        let pass = |segments: usize| {
            let blocks = (self.blocks_of(dims) * segments).div_ceil(multiprocessors);
            cost(self.per_lane, blocks) * (self.segment_steps + BEGIN)
        };
        match self.segments {
            1 => pass(1),
            // A tenth more, since this is the less certain.
            segments => 11 * (pass(segments) + 6 * pass(segments - 1) / 10 + LAUNCHES) / 10,
        }
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
            segment_steps: self.segment_steps,
            ..plan
        }
        .with_helpers(dtype)
    }

    /// Blocks that a multiprocessor must hold, which limits the registers of a thread: to 80, or to 128 with many numbers, where
    /// shared memory leaves room for so many blocks.
    fn blocks(&self, shared_bytes: usize) -> usize {
        let warps = if self.per_lane > 4 { 16 } else { 24 };
        let room = MULTIPROCESSOR_SHARED / (shared_bytes + 1024);
        (warps / (self.warps + self.helpers)).min(room).max(1)
    }

    /// Channels of a block.
    fn channels(&self) -> usize {
        self.warps * 32 / self.split
    }

    /// Blocks of a scan.
    fn blocks_of(&self, dims: &Dims) -> usize {
        dims.batch * dims.groups * (dims.channels / dims.groups).div_ceil(self.channels())
    }

    /// The size of the kernel's `Shared`, at most: as if B and C were copied in pieces of 16 bytes.
    fn shared_bytes(&self, state: usize, parts: usize, dtype: DType, starts: bool) -> usize {
        let (tile, channels) = (self.tile, self.channels());
        let own = 3 * self.stages * tile * channels * dtype.size();
        let pieces = 32 * self.helpers * 16 / dtype.size();
        let bc = self.stages * (tile * 2 * parts * state).next_multiple_of(pieces) * dtype.size();
        let steps = 2 * (channels * (tile + 2) + channels.div_ceil(8) * 4) * 8;
        let bc_f32 = 4 * self.split * (tile * parts * self.per_lane + 4) * 4;
        let resets = 2 * if starts { tile } else { 4 } * 4;
        let y = 2 * self.split * (tile * (channels + 4) + (32 / self.split).max(4)) * 4;
        own + bc + steps + bc_f32 + resets + y
    }

    /// 16 lanes with one state each mean few channels, for which there is a kernel of its own, if A is real.
    fn program(&self, state: usize, dtype: DType, options: &KernelOptions) -> Program {
        if (self.split, self.per_lane, options.complex) == (16, 1, false) {
            return forward_few::program(state, dtype, options);
        }
        let parts = if options.complex { 2 } else { 1 };
        let shared = self.shared_bytes(state, parts, dtype, options.starts);
        let defines = vec![
            ("IO", dtype.cuda_name().to_owned()),
            ("STATE", state.to_string()),
            ("SPLIT", self.split.to_string()),
            ("PER_LANE", self.per_lane.to_string()),
            ("WARPS", self.warps.to_string()),
            ("HELPERS", self.helpers.to_string()),
            ("TILE", self.tile.to_string()),
            ("STAGES", self.stages.to_string()),
            ("BLOCKS", self.blocks(shared).to_string()),
            ("WIDTH", self.width.to_string()),
            ("VEC", options.vec.min(self.width).to_string()),
            ("BC_VEC", options.bc_vec.to_string()),
            ("SHARED_BYTES", shared.to_string()),
            ("COMPLEX", flag(options.complex)),
            ("GATED", flag(options.gated)),
            ("SOFTPLUS", flag(options.softplus)),
            ("STARTS", flag(options.starts)),
            ("STATES_ONLY", flag(options.states_only)),
        ];
        Program {
            source: &SOURCE,
            name: "selective_scan_forward",
            defines,
            channels: self.channels(),
            threads: 32 * (self.warps + self.helpers),
            shared,
        }
    }
}

/// A kernel and how it is launched.
pub(super) struct Program {
    pub source: &'static Source,
    pub name: &'static str,
    pub defines: Vec<(&'static str, String)>,
    /// Of a block.
    pub channels: usize,
    pub threads: usize,
    pub shared: usize,
}

impl Program {
    /// Queues a kernel of the program.
    ///
    /// # Safety
    /// As for [`serpens_core::cuda::Kernel::launch`].
    unsafe fn launch(
        &self,
        device: Device,
        name: &'static str,
        grid: u32,
        params: &Params,
    ) -> Result<()> {
        let defines = self.defines.iter().map(|(k, v)| (*k, v.as_str()));
        let kernel = kernel(device, self.source, name, &defines.collect::<Vec<_>>())?;
        // SAFETY: the caller's promise.
        unsafe {
            kernel.launch(
                [grid, 1, 1],
                self.threads as u32,
                self.shared as u32,
                params,
            )
        }
    }
}

pub(super) fn flag(flag: bool) -> String {
    u8::from(flag).to_string()
}

/// What a kernel is compiled for beside the plan.
pub(super) struct KernelOptions {
    pub complex: bool,
    pub gated: bool,
    pub softplus: bool,
    pub starts: bool,
    /// Whether it is the pass before that of the segments.
    pub states_only: bool,
    pub vec: usize,
    pub bc_vec: usize,
}

/// The most values, a power of two, that one access of at most 16 bytes may take from rows of these views whose pieces begin at
/// multiples of `columns`.
fn access_width(views: &[View<'_>], columns: usize) -> usize {
    let most = 16 / views[0].dtype().size();
    let widths = std::iter::successors(Some(most), |width| Some(width / 2));
    widths
        .take_while(|&width| width > 1)
        .find(|&width| in_pieces(views, columns, width))
        .unwrap_or(1)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    u: DevicePtr,
    delta: DevicePtr,
    z: DevicePtr,
    y: DevicePtr,
    b: DevicePtr,
    c: DevicePtr,
    a: DevicePtr,
    a_im: DevicePtr,
    d: DevicePtr,
    delta_bias: DevicePtr,
    initial: DevicePtr,
    starts: DevicePtr,
    last: DevicePtr,
    checkpoints: DevicePtr,
    carry: DevicePtr,
    delta_sums: DevicePtr,
    u_row: i64,
    delta_row: i64,
    z_row: i64,
    y_row: i64,
    b_row: i64,
    c_row: i64,
    length: i64,
    batch: i32,
    channels: i32,
    groups: i32,
    segments: i32,
    segment_steps: i32,
    reverse: i32,
}

fn params(
    dims: &Dims,
    inputs: &Inputs<'_>,
    out: &ViewMut<'_>,
    last_state: &ViewMut<'_>,
    checkpoints: Option<&ViewMut<'_>>,
    plan: &Plan,
    [carry, delta_sums]: [DevicePtr; 2],
) -> Params {
    let (a, a_im) = match inputs.a {
        A::Real(a) => (a, None),
        A::Complex { re, im } => (re, Some(im)),
    };
    let stride = |view: View<'_>| view.stride() as i64;
    Params {
        u: inputs.u.ptr(),
        delta: inputs.delta.ptr(),
        z: ptr(inputs.z),
        y: out.ptr(),
        b: inputs.b.ptr(),
        c: inputs.c.ptr(),
        a: a.ptr(),
        a_im: ptr(a_im),
        d: ptr(inputs.d),
        delta_bias: ptr(inputs.delta_bias),
        initial: ptr(inputs.initial_state),
        starts: ptr(inputs.starts),
        last: last_state.ptr(),
        checkpoints: ptr(checkpoints.map(ViewMut::as_view)),
        carry,
        delta_sums,
        u_row: stride(inputs.u),
        delta_row: stride(inputs.delta),
        z_row: inputs.z.map_or(0, stride),
        y_row: out.stride() as i64,
        b_row: stride(inputs.b),
        c_row: stride(inputs.c),
        length: dims.length as i64,
        batch: dims.batch as i32,
        channels: dims.channels as i32,
        groups: dims.groups as i32,
        segments: plan.segments as i32,
        segment_steps: plan.segment_steps as i32,
        reverse: inputs.reverse.into(),
    }
}

/// Computes `out` (batch·length, channels), the state after the last step (batch, channels, parts·N) and, where asked for, the
/// checkpoints (batch, ⌈length / 32⌉, channels, parts·N) that [`super::backward`] needs: the state before every 32nd step.
///
/// # Errors
/// Sequences of 2^31 steps and more; a device that fails.
pub fn forward(
    dims: &Dims,
    inputs: &Inputs<'_>,
    out: ViewMut<'_>,
    last_state: ViewMut<'_>,
    checkpoints: Option<ViewMut<'_>>,
) -> Result<()> {
    let (device, dtype) = (out.device(), out.dtype());
    let complex = matches!(inputs.a, A::Complex { .. });
    let parts = if complex { 2 } else { 1 };
    let starts = inputs.starts.is_some();
    let plan = Plan::new(dims, parts, dtype, starts, multiprocessors(device)?);
    let mut rows = vec![inputs.u, inputs.delta, out.as_view()];
    rows.extend(inputs.z);
    let options = KernelOptions {
        complex,
        gated: inputs.z.is_some(),
        softplus: inputs.softplus,
        starts,
        states_only: false,
        vec: access_width(&rows, dims.channels / dims.groups),
        bc_vec: access_width(&[inputs.b, inputs.c], dims.state),
    };
    let program = plan.program(dims.state, dtype, &options);
    let blocks = (dims.channels / dims.groups).div_ceil(program.channels);
    let blocks = dims.batch * dims.groups * blocks;
    let grid = u32::try_from(blocks * plan.segments);
    let (Ok(grid), true) = (grid, dims.length < 1 << 31) else {
        let reason = format!("{dims:?} is more than a kernel counts");
        return Err(Error::argument(super::super::OP, reason));
    };
    let mut workspace = Workspace {
        device,
        tensors: Vec::new(),
    };
    let mut of_channels = |len: usize| match plan.segments {
        1 => Ok(DevicePtr::NULL),
        segments => workspace.take(segments * dims.batch * dims.channels * len),
    };
    let between = [of_channels(dims.state)?, of_channels(1)?];
    let checkpoints = checkpoints.as_ref();
    let params = params(dims, inputs, &out, &last_state, checkpoints, &plan, between);
    // SAFETY: the parameters are the kernels'; the views are valid for the sizes, which the caller has checked, the workspace was
    // allocated for them; the kernels were compiled for at most as much shared memory as they are given.
    unsafe {
        if plan.segments > 1 {
            let before = KernelOptions {
                states_only: true,
                ..options
            };
            let before = plan.program(dims.state, dtype, &before);
            let grid = (blocks * (plan.segments - 1)) as u32;
            before.launch(device, before.name, grid, &params)?;
            let states = dims.batch * dims.channels * dims.state;
            let combine = Program {
                threads: COMBINE_THREADS,
                shared: 0,
                ..before
            };
            let grid = states.div_ceil(COMBINE_THREADS) as u32;
            combine.launch(device, "selective_scan_forward_combine", grid, &params)?;
        }
        program.launch(device, program.name, grid, &params)
    }
}

/// The programs of this operation, for models with the usual sizes and for small and large N.
pub fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    let mut add = |dtype: DType, dims: [usize; 3], complex: bool, starts: bool, vec: usize| {
        let [length, channels, state] = dims;
        let dims = Dims {
            batch: 1,
            length,
            channels,
            state,
            groups: 1,
        };
        let parts = if complex { 2 } else { 1 };
        let mut options = KernelOptions {
            complex,
            gated: true,
            softplus: true,
            starts,
            states_only: false,
            vec,
            bc_vec: vec.min(1 << state.trailing_zeros()),
        };
        let plan = Plan::new(&dims, parts, dtype, starts, 132);
        for states_only in [false, true] {
            if states_only && plan.segments == 1 {
                continue;
            }
            options.states_only = states_only;
            let program = plan.program(state, dtype, &options);
            let variant = Variant {
                source: program.source,
                defines: program.defines,
                hot: vec > 1 && state <= 64,
            };
            let same = |other: &Variant| other.defines == variant.defines;
            if !variants.iter().any(same) {
                variants.push(variant);
            }
        }
    };
    for dtype in [DType::F32, DType::BF16] {
        let wide = 16 / dtype.size();
        for channels in [1024, 1536, 12_288, 32_768] {
            add(dtype, [2048, channels, 16], false, false, wide);
        }
        add(dtype, [2048, 12_288, 16], false, true, wide);
        add(dtype, [2048, 1024, 16], false, true, wide);
        add(dtype, [2048, 1024, 9], false, false, 1);
        add(dtype, [2048, 1024, 16], true, false, wide);
        for starts in [false, true] {
            add(dtype, [131_072, 1024, 16], false, starts, wide);
        }
        for state in [1, 3, 64, 256] {
            add(dtype, [2048, 12_288, state], false, false, 1);
        }
        add(dtype, [2048, 12_288, 256], true, true, wide);
    }
    variants
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
                groups: 1,
            };
            Plan::new(&dims, 1, DType::BF16, false, 132).split
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
        for (parts, length, cut) in [
            (1, 131_072, true),
            (1, 524_289, true),
            (1, 2048, false),
            (1, 1, false),
            (2, 131_072, false),
        ] {
            let dims = Dims {
                batch: 1,
                length,
                channels: 1024,
                state: 16,
                groups: 1,
            };
            let plan = Plan::new(&dims, parts, DType::BF16, false, 132);
            assert_eq!(plan.segments > 1, cut, "{plan:?}");
            assert!(plan.segments * plan.segment_steps >= length, "{plan:?}");
            assert!(
                (plan.segments - 1) * plan.segment_steps < length,
                "{plan:?}"
            );
            assert!(plan.segments == 1 || plan.segment_steps.is_multiple_of(CHECKPOINT));
        }
    }

    #[test]
    fn plans_fit_every_state_size() {
        for state in 1..=256 {
            for (parts, dtype) in [
                (1, DType::BF16),
                (1, DType::F32),
                (2, DType::BF16),
                (2, DType::F32),
            ] {
                for channels in [1, 1024, 100_000] {
                    let dims = Dims {
                        batch: 1,
                        length: 1,
                        channels,
                        state,
                        groups: 1,
                    };
                    let plan = Plan::new(&dims, parts, dtype, true, 132);
                    assert!(plan.split * plan.per_lane >= state, "{plan:?}");
                    assert!(plan.tile >= plan.split.max(4), "{plan:?}");
                    let values = plan.helpers * 32 * plan.width;
                    assert_eq!(values, plan.tile * plan.channels(), "{plan:?}");
                    assert!(plan.shared_bytes(state, parts, dtype, true) <= SHARED_LIMIT);
                }
            }
        }
    }
}
