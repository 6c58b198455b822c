//! The kernel for Hopper and later.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::{MambaLayer, OP};
use crate::check;
use crate::linear::Weight;
use crate::linear::cuda::{BF16_WEIGHT, KINDS, Q4_0_WEIGHT, StoredWeight};

static ROWS: Source = Source::new(
    "mamba_layers",
    concat!(
        include_str!("../selective_scan/cuda/decay.cuh"),
        include_str!("../shared/barriers.cuh"),
        include_str!("ring.cuh"),
        include_str!("rows.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[MambaLayersParams::declare])
.constants(KINDS);
static PANELS: Source = Source::new(
    "mamba_layers_blocks",
    concat!(
        include_str!("../selective_scan/cuda/decay.cuh"),
        include_str!("../shared/barriers.cuh"),
        include_str!("../quantized_linear/cuda/blocks.cuh"),
        include_str!("ring.cuh"),
        include_str!("blocks.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[MambaLayersParams::declare])
.constants(KINDS);

/// The kernel copies in bulk to shared memory, which cards can from this major compute capability on.
const MAJOR: u32 = 9;
/// Blocks that are at work together, one a multiprocessor.
const BLOCKS: usize = 128;
/// Layers of a launch.
const MOST_LAYERS: usize = 64;
/// Stages of the ring at least, and at most.
const DEPTH: std::ops::RangeInclusive<usize> = 3..=12;
/// Rows of a stage.
const STAGE_ROWS: usize = 8;
/// Inputs of W_out that a warp has at most.
const MOST_INPUTS: usize = 768;
/// Bytes behind a row of a stage of bf16.
const PADDING: usize = 64;
/// Warps that do not compute: one asks for weights, one for what is small.
const OTHER_WARPS: usize = 2;

kernel_params! {
    struct MambaLayerParams {
        norm: DevicePtr as "const float*", // (d_model)
        in_proj: DevicePtr as "const bf16*", // (2 · d_inner, d_model), or blocks
        conv: DevicePtr as "const float*", // (d_inner, CONV)
        conv_bias: DevicePtr as "const float*", // (d_inner), or null
        x_proj: DevicePtr as "const bf16*", // (RANK + 2 · STATE, d_inner)
        dt_proj: DevicePtr as "const bf16*", // (d_inner, RANK)
        dt_bias: DevicePtr as "const float*", // (d_inner)
        a: DevicePtr as "const float*", // (d_inner, STATE)
        d: DevicePtr as "const float*", // (d_inner)
        out_proj: DevicePtr as "const bf16*", // (d_model, d_inner), or blocks
        past: DevicePtr as "float*", // (CONV - 1, d_inner)
        state: DevicePtr as "float*", // (d_inner, STATE)
        eps: f32,
    }

    struct MambaLayersParams {
        layers: [MambaLayerParams; MOST_LAYERS],
        h: DevicePtr as "float*", // (d_model)
        words: DevicePtr as "uint2*",
        epoch: DevicePtr as "u32*", // that the words are of
        count: i32,
    }
}

/// Of the exchange: those before it are the epoch's.
const FIRST_WORD: usize = 16;

/// What a program is compiled for.
pub(super) struct LayersPlan {
    /// Of [`KINDS`].
    kind: i32,
    d_model: usize,
    d_inner: usize,
    rank: usize,
    state: usize,
    conv: usize,
    warps: usize,
    columns: usize,
    scan_lanes: usize,
    depth: usize,
    /// Stages that are on their way at a time.
    ahead: usize,
    /// Bytes of shared memory before the ring, and of a stage of it.
    shared: usize,
    stage: usize,
}

/// How weights of a kind come through the ring, as measured (docs/kernels.md): larger copies are faster, smaller stages
/// are more of them, more on their way hold others up.
struct Stages {
    /// Of a stage; a warp multiplies so many at a time, and has so many of a stage at most.
    columns: usize,
    step: usize,
    most_of_warp: usize,
    ahead: usize,
    bytes: usize,
}

impl Stages {
    fn new(kind: i32, d_model: usize) -> Self {
        let columns = match kind {
            BF16_WEIGHT if d_model >= 1024 => d_model / 2,
            _ => d_model,
        };
        let values = STAGE_ROWS * columns;
        let (step, most_of_warp, ahead, bytes) = match kind {
            BF16_WEIGHT => (64, usize::MAX, 3, 2 * values + STAGE_ROWS * PADDING),
            Q4_0_WEIGHT => (128, 256, 2, values / 2 + values / 16),
            _ => (64, 256, 2, values + values / 16),
        };
        Self {
            columns,
            step,
            most_of_warp,
            ahead,
            bytes,
        }
    }
}

impl LayersPlan {
    /// For layers of this kind on a card with these bytes of shared memory; none where there is none.
    fn new(layer: &MambaLayer<'_>, shared_memory: usize) -> Result<Option<Self>> {
        let [d_model, d_inner] = layer.out_proj.shape();
        let (rank, state, conv) = (layer.dt_proj.cols(), layer.a.cols(), layer.conv.cols());
        let kind = StoredWeight::new(layer.in_proj)?.kind;
        let stages = Stages::new(kind, d_model);
        let columns = stages.columns;
        let divides = |warps: &usize| {
            columns.is_multiple_of(warps * stages.step) && columns / warps <= stages.most_of_warp
        };
        let Some(warps) = (1..=10).rev().find(divides) else {
            return Ok(None);
        };
        let (threads, channels, projected) = (32 * warps, d_inner / BLOCKS, rank + 2 * state);
        let lanes = |lanes: &usize| state.is_multiple_of(*lanes) && channels * lanes <= threads;
        let scan_lanes = [16, 8, 4, 2, 1].into_iter().find(lanes);
        let fits = d_model.is_multiple_of(BLOCKS)
            && d_inner.is_multiple_of(4 * BLOCKS)
            && d_inner.is_multiple_of(columns)
            && (projected.is_multiple_of(4) && projected <= threads.min(4 * BLOCKS))
            && (rank > 0 && rank.is_multiple_of(2))
            && d_model / BLOCKS <= threads
            && d_inner / warps <= MOST_INPUTS
            // Rows of a block begin at any even place of a panel.
            && (kind == BF16_WEIGHT || d_model.is_multiple_of(2 * BLOCKS))
            && (2..=8).contains(&conv);
        let mut plan = Self {
            kind,
            d_model,
            d_inner,
            rank,
            state,
            conv,
            warps,
            columns,
            scan_lanes: scan_lanes.unwrap_or(0),
            depth: 0,
            ahead: stages.ahead,
            shared: 0,
            stage: stages.bytes,
        };
        plan.shared = plan.shared_bytes();
        let depth = shared_memory.saturating_sub(plan.shared) / plan.stage;
        plan.depth = depth.min(*DEPTH.end());
        let fits = fits && scan_lanes.is_some() && DEPTH.contains(&plan.depth);
        Ok(fits.then_some(plan))
    }

    /// The words of an exchange: the epoch's, h, y (two in a word), W_x u, and of each block its part of that.
    pub(super) fn words(&self) -> usize {
        let projected = self.rank + 2 * self.state;
        FIRST_WORD + self.d_model + self.d_inner / 2 + (1 + BLOCKS) * projected
    }

    /// Those of the kernel's `Shared` for the deepest ring, or more.
    fn shared_bytes(&self) -> usize {
        let (channels, rows) = (self.d_inner / BLOCKS, self.d_model / BLOCKS);
        let projected = self.rank + 2 * self.state;
        let halves = projected * (channels + 8) + channels * self.rank;
        let floats = self.d_model + channels * (2 * self.state + 2 * self.conv + 2);
        let beside = (4 * floats + 2 * halves).next_multiple_of(16);
        let (inputs, panels) = match self.kind {
            BF16_WEIGHT => (2 * self.d_inner, (2 * channels).div_ceil(STAGE_ROWS)),
            _ => (self.d_inner + self.d_inner / 8, 2 * panels_of(channels)),
        };
        let outputs = STAGE_ROWS * panels.max(panels_of(rows));
        let sums = self.warps.next_multiple_of(4) + self.warps * outputs + 2 * channels + projected;
        let barriers = 2 * size_of::<u64>() * (DEPTH.end() + 1);
        (beside + barriers + inputs + 4 * sums).next_multiple_of(128)
    }
}

/// Panels that so many rows may lie in, which begin at a multiple of their number: the kernel's `Panels`.
fn panels_of(rows: usize) -> usize {
    let inside = match rows {
        _ if rows.is_multiple_of(STAGE_ROWS) => 0,
        _ if rows.is_multiple_of(STAGE_ROWS / 2) => STAGE_ROWS / 2,
        _ => STAGE_ROWS - 2,
    };
    (inside + rows).div_ceil(STAGE_ROWS)
}

/// What the kernel is compiled for to take these layers; none where it does not take them.
pub(super) fn plan(layers: &[MambaLayer<'_>]) -> Result<Option<LayersPlan>> {
    let Some(first) = layers.first().filter(|_| layers.len() <= MOST_LAYERS) else {
        return Ok(None);
    };
    let device = first.x_proj.device();
    if device == Device::Cpu {
        return Ok(None);
    }
    let card = properties(device)?;
    if card.capability.0 < MAJOR || (card.multiprocessors as usize) < BLOCKS {
        return Ok(None);
    }
    let takes = |plan: &LayersPlan| layers.iter().all(|layer| layer.check(plan, device).is_ok());
    Ok(LayersPlan::new(first, card.shared_memory)?.filter(takes))
}

/// Takes h through the layers.
///
/// # Errors
/// Operands that do not fit; a device that fails.
pub(super) fn step(
    layers: &[MambaLayer<'_>],
    h: ViewMut<'_>,
    plan: &LayersPlan,
    exchange: &mut Tensor,
) -> Result<()> {
    let device = exchange.device();
    check::range(OP, "the layers", 1..MOST_LAYERS + 1, layers.len())?;
    layers
        .iter()
        .try_for_each(|layer| layer.check(plan, device))?;
    let of_h = (DType::F32, device);
    operand("h", [1, plan.d_model], of_h, h.as_view())?;
    let epoch = exchange.view_mut()?.ptr();
    let params = MambaLayersParams {
        layers: std::array::from_fn(|i| layers[i.min(layers.len() - 1)].params()),
        h: h.ptr(),
        words: DevicePtr(epoch.0 + (FIRST_WORD * size_of::<[u32; 2]>()) as u64),
        epoch,
        count: layers.len() as i32,
    };
    let numbers = [
        ("WEIGHT", plan.kind as usize),
        ("D_MODEL", plan.d_model),
        ("D_INNER", plan.d_inner),
        ("RANK", plan.rank),
        ("STATE", plan.state),
        ("CONV", plan.conv),
        ("BLOCKS", BLOCKS),
        ("WARPS", plan.warps),
        ("COLUMNS", plan.columns),
        ("DEPTH", plan.depth),
        ("AHEAD", plan.ahead),
        ("SCAN_LANES", plan.scan_lanes),
        ("SHARED_BYTES", plan.shared),
    ];
    let numbers = numbers.map(|(name, number)| (name, number.to_string()));
    let mut defines: Vec<_> = numbers
        .iter()
        .map(|(name, n)| (*name, n.as_str()))
        .collect();
    defines.push(("IO", "float"));
    let source = if plan.kind == BF16_WEIGHT {
        &ROWS
    } else {
        &PANELS
    };
    let kernel = kernel(device, source, OP, &defines)?;
    let warps = plan.warps + OTHER_WARPS;
    let (threads, shared) = (32 * warps, plan.shared + plan.depth * plan.stage);
    let grid = [BLOCKS as u32, 1, 1];
    // SAFETY: the parameters are the kernel's, the views valid for the sizes that are checked; launches with one
    // exchange are in order, as the contract asks.
    unsafe { kernel.launch_together(grid, threads as u32, shared as u32, &params) }
}

/// Fails unless the kernel can read an operand: its shape, type and device, rows without gaps, whole packets.
fn operand(
    what: &'static str,
    shape: [usize; 2],
    of: (DType, Device),
    view: View<'_>,
) -> Result<()> {
    check::view(OP, what, shape, of, &view)?;
    let next = if view.rows() <= 1 {
        view.cols()
    } else {
        view.stride()
    };
    check::count(OP, "values from row to row", view.cols(), next)?;
    check::multiple(OP, "an operand's address", 16, view.ptr().0 as usize)
}

fn address(weight: Weight<'_>) -> DevicePtr {
    match weight {
        Weight::Plain(view) => view.ptr(),
        Weight::Packed(packed) => packed.data().view().ptr(),
    }
}

impl MambaLayer<'_> {
    /// Fails unless the kernel of this plan can read all of the layer, on the device.
    fn check(&self, plan: &LayersPlan, device: Device) -> Result<()> {
        let (d_model, d_inner) = (plan.d_model, plan.d_inner);
        let projected = plan.rank + 2 * plan.state;
        let matrix = |what, shape, view| operand(what, shape, (DType::BF16, device), view);
        let float = |what, shape, view| operand(what, shape, (DType::F32, device), view);
        matrix("W_x", [projected, d_inner], self.x_proj)?;
        matrix("W_delta", [d_inner, plan.rank], self.dt_proj)?;
        for (what, [rows, cols], weight) in [
            ("W_in", [2 * d_inner, d_model], self.in_proj),
            ("W_out", [d_model, d_inner], self.out_proj),
        ] {
            let kind = StoredWeight::new(weight)?.kind;
            check::count(
                OP,
                "the kind of a matrix",
                plan.kind as usize,
                kind as usize,
            )?;
            match weight {
                Weight::Plain(view) => matrix(what, [rows, cols], view)?,
                Weight::Packed(packed) => {
                    check::count(OP, "rows of a matrix", rows, packed.rows())?;
                    check::count(OP, "columns of a matrix", cols, packed.cols())?;
                    check::device(OP, what, device, packed.device())?;
                }
            }
        }
        float("the norm's weight", [1, d_model], self.norm.weight)?;
        float("the convolution", [d_inner, plan.conv], self.conv)?;
        if let Some(bias) = self.conv_bias {
            float("the convolution's bias", [1, d_inner], bias)?;
        }
        float("the bias of delta", [1, d_inner], self.dt_bias)?;
        float("A", [d_inner, plan.state], self.a)?;
        float("D", [1, d_inner], self.d)?;
        let past = (plan.conv - 1) * d_inner;
        float("the last inputs", [1, past], self.past.as_view())?;
        let state = d_inner * plan.state;
        float("the state", [1, state], self.state.as_view())
    }

    fn params(&self) -> MambaLayerParams {
        MambaLayerParams {
            norm: self.norm.weight.ptr(),
            in_proj: address(self.in_proj),
            conv: self.conv.ptr(),
            conv_bias: self.conv_bias.map_or(DevicePtr::NULL, |bias| bias.ptr()),
            x_proj: self.x_proj.ptr(),
            dt_proj: self.dt_proj.ptr(),
            dt_bias: self.dt_bias.ptr(),
            a: self.a.ptr(),
            d: self.d.ptr(),
            out_proj: address(self.out_proj),
            past: self.past.ptr(),
            state: self.state.ptr(),
            eps: self.norm.eps,
        }
    }
}
