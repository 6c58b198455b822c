//! One position of many sequences.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::super::{OP, StepConv};
use crate::check;
use crate::linear::cuda::{ConvTail, step_and_convolve};
use crate::linear::{self, Norm, Weight};

static SOURCE: Source = Source::new("causal_conv1d_step", include_str!("step.cu"))
    .params(&[ConvStepParams::declare])
    .may_spill(|program| program.number("WIDTH") > Some(16));

/// Threads of a block, as the kernel has them.
const THREADS: usize = 128;
/// Blocks at most over the slots.
const SLOT_BLOCKS: usize = 1 << 15;

kernel_params! {
    struct ConvStepParams {
        x: DevicePtr as "const IO*", // (slots, channels)
        weight: DevicePtr as "const float*", // (channels, WIDTH)
        bias: DevicePtr as "const float*", // (channels), or null
        state: DevicePtr as "float*", // (slots, WIDTH - 1, channels)
        y: DevicePtr as "IO*", // (slots, channels)
        x_stride: i64,
        state_stride: i64,
        y_stride: i64,
        slots: i32,
        channels: i32,
    }
}

/// y = act(bias + Σ_k weight\[k\] · (state, x)\[k\]) for each slot, whose state is moved on.
///
/// # Errors
/// Operands of other types or on other devices; whatever the device fails with.
pub fn step(
    x: View<'_>,
    weight: View<'_>,
    bias: Option<View<'_>>,
    silu: bool,
    state: ViewMut<'_>,
    y: ViewMut<'_>,
) -> Result<()> {
    let device = y.device();
    let f32s = |what, view: View<'_>| check::address(OP, what, &view, DType::F32, device);
    let bias = bias.map(|bias| f32s("bias", bias)).transpose()?;
    let params = ConvStepParams {
        x: check::address(OP, "x", &x, y.dtype(), device)?,
        weight: f32s("weight", weight)?,
        bias: bias.unwrap_or(DevicePtr::NULL),
        state: f32s("the state", state.as_view())?,
        y: y.ptr(),
        x_stride: x.stride() as i64,
        state_stride: state.stride() as i64,
        y_stride: y.stride() as i64,
        slots: check::int(OP, "the number of slots", x.rows())?,
        channels: check::int(OP, "the number of channels", x.cols())?,
    };
    let views = [x, state.as_view(), y.as_view()];
    let vec = match check::accessible(&views, x.cols(), 2) {
        true => 2,
        false => 1,
    };
    let kernel = kernel(
        device,
        &SOURCE,
        "causal_conv1d_step",
        &[
            ("IO", x.dtype().cuda_name()),
            ("WIDTH", &weight.cols().to_string()),
            ("SILU", if silu { "1" } else { "0" }),
            ("VEC", &vec.to_string()),
        ],
    )?;
    let blocks = x.cols().div_ceil(THREADS * vec) as u32;
    let grid = [blocks, x.rows().min(SLOT_BLOCKS) as u32, 1];
    // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the kernel
    // waits for those before it, but for its weights, which no kernel queued shortly before it writes.
    unsafe { kernel.launch_early(grid, THREADS as u32, 0, &params) }
}

/// xz = W norm(x) + b, of whose columns the first go through the convolution and to u instead, which is of as many: in
/// one kernel where one of ours takes them.
///
/// # Errors
/// As [`step`].
pub fn step_of_product(
    x: View<'_>,
    norm: Option<Norm<'_>>,
    w: Weight<'_>,
    bias: Option<View<'_>>,
    mut xz: ViewMut<'_>,
    conv: StepConv<'_>,
    u: ViewMut<'_>,
) -> Result<()> {
    let device = u.device();
    let f32s = |what, view: View<'_>| check::address(OP, what, &view, DType::F32, device);
    let tail = ConvTail {
        weight: f32s("weight", conv.weight)?,
        bias: conv
            .bias
            .map_or(Ok(DevicePtr::NULL), |bias| f32s("bias", bias))?,
        state: f32s("the state", conv.state.as_view())?,
        u: check::address(OP, "u", &u.as_view(), xz.dtype(), device)?,
        state_stride: conv.state.stride() as i64,
        u_stride: u.stride() as i64,
        channels: check::int(OP, "the number of channels", u.cols())?,
        silu: conv.silu.into(),
    };
    let tail = (conv.weight.cols(), tail);
    if step_and_convolve(x, norm, w, bias, xz.reborrow(), tail)? {
        return Ok(());
    }
    linear::cuda::step(x, norm, w, bias, xz.reborrow(), false)?;
    let inputs = xz.as_view().columns(0..u.cols());
    step(inputs, conv.weight, conv.bias, conv.silu, conv.state, u)
}
