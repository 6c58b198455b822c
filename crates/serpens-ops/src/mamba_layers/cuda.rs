//! The kernel for Hopper and later.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::{MambaLayer, OP};
use crate::check;

static SOURCE: Source = Source::new(
    "mamba_layers",
    concat!(
        include_str!("../selective_scan/cuda/decay.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[MambaLayersParams::declare])
// A warp that asks for weights leaves ten that compute 168 registers a thread.
.may_spill(|program| program.number("WARPS") == Some(10));

/// The kernel copies in bulk to shared memory, which cards can from this major compute capability on.
const MAJOR: u32 = 9;
/// Blocks that are at work together, one a multiprocessor.
const BLOCKS: usize = 128;
/// Layers of a launch.
const MOST_LAYERS: usize = 64;
/// Stages of weights that are on their way at most, and at least.
const DEPTH: std::ops::RangeInclusive<usize> = 3..=12;
/// Rows of a stage, and columns of it that a warp multiplies at a time; twelve times as many at most.
const STAGE_ROWS: usize = 8;
const STEP_COLUMNS: usize = 64;
const MOST_STEPS: usize = 12;
/// Bytes behind a row of a stage.
const PADDING: usize = 64;

kernel_params! {
    struct MambaLayerParams {
        norm: DevicePtr as "const float*", // (d_model)
        in_proj: DevicePtr as "const bf16*", // (2 · d_inner, d_model)
        conv: DevicePtr as "const float*", // (d_inner, CONV)
        conv_bias: DevicePtr as "const float*", // (d_inner), or null
        x_proj: DevicePtr as "const bf16*", // (RANK + 2 · STATE, d_inner)
        dt_proj: DevicePtr as "const bf16*", // (d_inner, RANK)
        dt_bias: DevicePtr as "const float*", // (d_inner)
        a: DevicePtr as "const float*", // (d_inner, STATE)
        d: DevicePtr as "const float*", // (d_inner)
        out_proj: DevicePtr as "const bf16*", // (d_model, d_inner)
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
    d_model: usize,
    d_inner: usize,
    rank: usize,
    state: usize,
    conv: usize,
    warps: usize,
    columns: usize,
    scan_lanes: usize,
    depth: usize,
    /// Bytes of shared memory before the ring, and of a stage of it.
    shared: usize,
    stage: usize,
}

impl LayersPlan {
    /// For layers of this kind on a card with these bytes of shared memory; none where there is none.
    fn new(layer: &MambaLayer<'_>, shared_memory: usize) -> Option<Self> {
        let [d_inner, d_model] = [layer.out_proj.cols(), layer.out_proj.rows()];
        let (rank, state, conv) = (layer.dt_proj.cols(), layer.a.cols(), layer.conv.cols());
        // Larger copies are faster, smaller stages are more of them: as measured (docs/kernels.md).
        let columns = if d_model < 1024 { d_model } else { d_model / 2 };
        let divides = |warps: &usize| columns.is_multiple_of(warps * STEP_COLUMNS);
        let warps = (1..=10).rev().find(divides)?;
        let (threads, channels, projected) = (32 * warps, d_inner / BLOCKS, rank + 2 * state);
        let lanes = |lanes: &usize| state.is_multiple_of(*lanes) && channels * lanes <= threads;
        let scan_lanes = [16, 8, 4, 2, 1].into_iter().find(lanes)?;
        let fits = d_model.is_multiple_of(BLOCKS)
            && d_inner.is_multiple_of(4 * BLOCKS)
            && d_inner.is_multiple_of(columns)
            && (projected.is_multiple_of(4) && projected <= threads.min(4 * BLOCKS))
            && (rank > 0 && rank.is_multiple_of(2))
            && d_model / BLOCKS <= threads
            && d_inner / warps <= MOST_STEPS * STEP_COLUMNS
            && (2..=8).contains(&conv);
        let mut plan = Self {
            d_model,
            d_inner,
            rank,
            state,
            conv,
            warps,
            columns,
            scan_lanes,
            depth: 0,
            shared: 0,
            stage: STAGE_ROWS * (2 * columns + PADDING),
        };
        plan.shared = plan.shared_bytes();
        let depth = shared_memory.saturating_sub(plan.shared) / plan.stage;
        plan.depth = depth.min(*DEPTH.end());
        (fits && DEPTH.contains(&plan.depth)).then_some(plan)
    }

    /// The words of an exchange: the epoch's, h, y, W_x u, and of each block its part of that.
    pub(super) fn words(&self) -> usize {
        let projected = self.rank + 2 * self.state;
        FIRST_WORD + self.d_model + self.d_inner + (1 + BLOCKS) * projected
    }

    /// Those of the kernel's `Shared` for the deepest ring, or more.
    fn shared_bytes(&self) -> usize {
        let (channels, rows) = (self.d_inner / BLOCKS, self.d_model / BLOCKS);
        let projected = self.rank + 2 * self.state;
        let halves = projected * (channels + 8) + channels * self.rank;
        let floats = self.d_model + channels * (2 * self.state + 2 * self.conv + 2);
        let beside = (4 * floats + 2 * halves).next_multiple_of(16);
        let outputs = STAGE_ROWS
            * (2 * channels)
                .div_ceil(STAGE_ROWS)
                .max(rows.div_ceil(STAGE_ROWS));
        let sums = self.warps.next_multiple_of(4) + self.warps * outputs + 2 * channels + projected;
        let barriers = 2 * size_of::<u64>() * DEPTH.end();
        (2 * beside + barriers + 2 * self.d_inner + 4 * sums).next_multiple_of(128)
    }
}

/// What the kernel is compiled for to take these layers; none where it does not take them.
pub(super) fn plan(layers: &[MambaLayer<'_>]) -> Result<Option<LayersPlan>> {
    let Some(first) = layers.first().filter(|_| layers.len() <= MOST_LAYERS) else {
        return Ok(None);
    };
    let device = first.in_proj.device();
    if device == Device::Cpu {
        return Ok(None);
    }
    let card = properties(device)?;
    if card.capability.0 < MAJOR || (card.multiprocessors as usize) < BLOCKS {
        return Ok(None);
    }
    let takes = |plan: &LayersPlan| layers.iter().all(|layer| layer.check(plan, device).is_ok());
    Ok(LayersPlan::new(first, card.shared_memory).filter(takes))
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
        ("D_MODEL", plan.d_model),
        ("D_INNER", plan.d_inner),
        ("RANK", plan.rank),
        ("STATE", plan.state),
        ("CONV", plan.conv),
        ("BLOCKS", BLOCKS),
        ("WARPS", plan.warps),
        ("COLUMNS", plan.columns),
        ("DEPTH", plan.depth),
        ("SCAN_LANES", plan.scan_lanes),
        ("SHARED_BYTES", plan.shared),
    ];
    let numbers = numbers.map(|(name, number)| (name, number.to_string()));
    let mut defines: Vec<_> = numbers
        .iter()
        .map(|(name, n)| (*name, n.as_str()))
        .collect();
    defines.push(("IO", "float"));
    let kernel = kernel(device, &SOURCE, OP, &defines)?;
    let (threads, shared) = (32 * (plan.warps + 1), plan.shared + plan.depth * plan.stage);
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

impl MambaLayer<'_> {
    /// Fails unless the kernel of this plan can read all of the layer, on the device.
    fn check(&self, plan: &LayersPlan, device: Device) -> Result<()> {
        let (d_model, d_inner) = (plan.d_model, plan.d_inner);
        let projected = plan.rank + 2 * plan.state;
        let matrix = |what, shape, view| operand(what, shape, (DType::BF16, device), view);
        let float = |what, shape, view| operand(what, shape, (DType::F32, device), view);
        matrix("W_in", [2 * d_inner, d_model], self.in_proj)?;
        matrix("W_x", [projected, d_inner], self.x_proj)?;
        matrix("W_delta", [d_inner, plan.rank], self.dt_proj)?;
        matrix("W_out", [d_model, d_inner], self.out_proj)?;
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
            in_proj: self.in_proj.ptr(),
            conv: self.conv.ptr(),
            conv_bias: self.conv_bias.map_or(DevicePtr::NULL, |bias| bias.ptr()),
            x_proj: self.x_proj.ptr(),
            dt_proj: self.dt_proj.ptr(),
            dt_bias: self.dt_bias.ptr(),
            a: self.a.ptr(),
            d: self.d.ptr(),
            out_proj: self.out_proj.ptr(),
            past: self.past.ptr(),
            state: self.state.ptr(),
            eps: self.norm.eps,
        }
    }
}
