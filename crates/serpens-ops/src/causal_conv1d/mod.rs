//! Causal depthwise convolution with carried state, packed sequences and either direction.
//!
//! y\[b, t, e\] = act(bias\[e\] + Σ_{k<W} weight\[e, k\] · x\[b, t − W + 1 + k, e\]), act the identity or silu.
//!
//! - x, y: (batch, length, channels), seen as batch·length rows that may be columns of wider rows; weight: (channels,
//!   W), W ≥ 1, which is a checkpoint's (channels, 1, W) flattened; bias: (channels), optional. All f32, but on a GPU
//!   x, y and their gradients may be bf16.
//! - `initial_state`: (batch, W − 1, channels), the inputs before t = 0, the oldest first; zeros where it is absent.
//!   The final state has the same layout and holds the last W − 1 inputs, those of the initial state among them where
//!   length < W − 1.
//! - `starts`: where packed sequences start: from there on no earlier input of the row is seen, neither of x nor of the
//!   initial state. Inputs that the last start hides are zero in the final state. Whole rows begin with a sequence, so
//!   that they have no initial state; chunks of them ([`Starts::chunk`]) go on from it, and are the same sequences.
//! - `reverse`: the mirror image. Position t sees t..t + W − 1, up to where its sequence ends; the state holds the
//!   inputs behind the end, the farthest first, and the final state the first inputs. It equals flipping every sequence
//!   in time, convolving forward and flipping back.
//!
//! [`step`] computes one position of many sequences, whose states it moves on in place: the same value as the
//! convolution gives there, on the processor to the bit.
//!
//! The backward pass computes the value before the activation anew from x, so that nothing is stored for it.

pub mod cpu;
pub mod cuda;
mod operands;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Mat, Result, Tensor, Var, View, ViewMut};

pub use operands::{Conv, ConvDims, ConvOperands};

use crate::linear::{self, Norm, Weight};
use crate::{DeviceStarts, Starts, check};

const OP: &str = "causal_conv1d";

/// How [`causal_conv1d`] reads its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvOptions<'a> {
    /// Whether SiLU is applied to the sum.
    pub silu: bool,
    /// Where packed sequences start; of whole rows only where there is no initial state.
    pub starts: Option<&'a Starts>,
    /// From the last position to the first: position t sees t to t + width - 1.
    pub reverse: bool,
}

/// What [`causal_conv1d`] gives.
pub struct ConvOutput {
    /// (batch, length, channels).
    pub y: Var,
    /// The last width - 1 inputs, (batch, width - 1, channels): the initial state of what follows.
    pub final_state: Var,
}

/// y_t = act(bias + Σ_k w_k x_(t - width + 1 + k)), each channel by itself.
///
/// # Shapes
/// x (batch, length, channels), weight (channels, 1, width), bias (channels), initial_state (batch, width - 1,
/// channels)
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says; a width of 0; an initial state
/// before whole packed rows ([`serpens_core::Error::Surplus`]).
pub fn causal_conv1d(
    x: &Var,
    weight: &Var,
    bias: Option<&Var>,
    initial_state: Option<&Var>,
    options: &ConvOptions<'_>,
) -> Result<ConvOutput> {
    let [batch, length, channels] = x.shape().axes(OP, "x", "(batch, length, channels)")?;
    let [_, _, width] = weight.shape().axes(OP, "weight", "(channels, 1, width)")?;
    check::range(OP, "the width", 1..usize::MAX, width)?;
    let dims = ConvDims {
        batch,
        length,
        channels,
        width,
    };
    let operands = ConvOperands {
        x,
        weight,
        bias,
        initial_state,
    };
    operands.check(OP, &dims)?;
    let device = x.device();
    let (sizes, reverse) = ([batch, length], options.reverse);
    let starts = DeviceStarts::new(options.starts, OP, sizes, reverse, initial_state, device)?;
    let conv = Conv {
        dims,
        operands: operands.map(|_, operand| operand.detach()),
        starts,
        reverse,
        silu: options.silu,
    };
    let mut y = Tensor::empty(x.shape(), x.dtype(), device)?;
    let mut state = Tensor::empty([batch, width - 1, channels], DType::F32, device)?;
    match device {
        Device::Cpu => cpu::forward(&conv.on_cpu()?, y.mat_mut()?, Some(state.make_mut()?)),
        Device::Cuda(_) => cuda::forward(&conv.on_cuda()?, y.view_mut()?, state.view_mut()?)?,
    }
    let operands = operands.into_array();
    let operation = tracked(&operands).then(|| Box::new(conv) as Box<dyn Backward>);
    let [y, final_state] = record(OP, &operands, [y, state], operation)?;
    Ok(ConvOutput { y, final_state })
}

/// The next position of S sequences (slots), without a tape: y = act(bias + Σ_k weight\[k\] · (state, x)\[k\]), and
/// each slot's state then holds its last W − 1 inputs. A slot has the same bits among any others.
///
/// # Shapes
/// x (S, channels), weight (channels, W), bias (channels), state (S, (W − 1) · channels), the oldest input first, y as
/// x; rows of x, state and y may be parts of wider ones. All f32; on a GPU x and y may both be bf16.
///
/// # On a GPU
/// The weight and the bias may be read early, as [`linear::step`] says.
///
/// # Errors
/// Shapes that do not fit; a width of 0; operands of other types, or on different devices.
pub fn step(
    x: View<'_>,
    weight: View<'_>,
    bias: Option<View<'_>>,
    silu: bool,
    state: ViewMut<'_>,
    y: ViewMut<'_>,
) -> Result<()> {
    let (sizes, device) = ([x.rows(), x.cols()], x.device());
    check_step(sizes, &weight, &bias, &state.as_view(), &y.as_view())?;
    check::dtype(OP, "x", y.dtype(), x.dtype())?;
    check::device(OP, "x", y.device(), device)?;
    match device {
        Device::Cpu => {
            let bias = bias.map(View::mat).transpose()?;
            let bias = bias.map(Mat::into_slice);
            cpu::step(x.mat()?, weight.mat()?, bias, silu, state.mat()?, y.mat()?);
            Ok(())
        }
        Device::Cuda(_) => cuda::step(x, weight, bias, silu, state, y),
    }
}

/// Fails unless what a step of these (slots, channels) has beside its input fits.
fn check_step(
    [slots, channels]: [usize; 2],
    weight: &View<'_>,
    bias: &Option<View<'_>>,
    state: &View<'_>,
    y: &View<'_>,
) -> Result<()> {
    let (width, f32s) = (weight.cols(), (DType::F32, y.device()));
    check::range(OP, "the width", 1..usize::MAX, width)?;
    check::view(OP, "weight", [channels, width], f32s, weight)?;
    if let Some(bias) = bias {
        check::view(OP, "bias", [1, channels], f32s, bias)?;
    }
    check::view(OP, "state", [slots, (width - 1) * channels], f32s, state)?;
    check::view(OP, "y", [slots, channels], (y.dtype(), y.device()), y)
}

/// What a step of a convolution has beside its input; see [`step`].
#[derive(Debug)]
pub struct StepConv<'a> {
    /// (channels, W).
    pub weight: View<'a>,
    /// (channels).
    pub bias: Option<View<'a>>,
    /// Whether SiLU is applied to the sum.
    pub silu: bool,
    /// (S, (W − 1) · channels), in place.
    pub state: ViewMut<'a>,
}

/// The [`step`] of a linear map's first columns: xz = W norm(x) + b as of [`linear::step`], and u = act(conv(xz's first
/// columns)), as many as u has. On a GPU, where few rows take one kernel, those columns of xz may stay as they were.
///
/// # Shapes
/// x (S, inputs), W (outputs, inputs), xz (S, outputs), u (S, channels), channels ≤ outputs
///
/// # On a GPU
/// All weights may be read early, as [`linear::step`] says.
///
/// # Errors
/// As [`step`] and [`linear::step`].
pub fn step_of_product(
    x: View<'_>,
    norm: Option<Norm<'_>>,
    w: Weight<'_>,
    bias: Option<View<'_>>,
    mut xz: ViewMut<'_>,
    conv: StepConv<'_>,
    u: ViewMut<'_>,
) -> Result<()> {
    check::range(OP, "the channels", 1..xz.cols() + 1, u.cols())?;
    let sizes = [x.rows(), u.cols()];
    let (state, y) = (conv.state.as_view(), u.as_view());
    check_step(sizes, &conv.weight, &conv.bias, &state, &y)?;
    linear::check_step(&x, &norm, &w, &bias, &xz.as_view())?;
    match u.device() {
        Device::Cpu => {
            linear::step(x, norm, w, bias, xz.reborrow(), false)?;
            let inputs = xz.as_view().columns(0..u.cols());
            step(inputs, conv.weight, conv.bias, conv.silu, conv.state, u)
        }
        Device::Cuda(_) => cuda::step_of_product(x, norm, w, bias, xz, conv, u),
    }
}

impl Conv<Var, DeviceStarts> {
    fn with<T, S>(&self, operands: ConvOperands<T>, starts: Option<S>) -> Conv<T, S> {
        Conv {
            dims: self.dims,
            operands,
            starts,
            reverse: self.reverse,
            silu: self.silu,
        }
    }

    /// As the kernels of the processor take it.
    fn on_cpu(&self) -> Result<cpu::Conv<'_>> {
        let starts = self.starts.as_ref().and_then(DeviceStarts::flags);
        Ok(self.with(self.operands.mats()?, starts))
    }

    /// As the kernels of a GPU take it.
    fn on_cuda(&self) -> Result<cuda::Conv<'_>> {
        let starts = self.starts.as_ref().and_then(DeviceStarts::bytes);
        Ok(self.with(self.operands.views()?, starts))
    }
}

/// The sums before the activation are computed again.
impl Backward for Conv<Var, DeviceStarts> {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let x = &self.operands.x;
        let dstate = context.take_output(1);
        let dy = match context.take_output(0) {
            Some(dy) => dy,
            None => Tensor::zeros(x.shape(), x.dtype(), x.device())?,
        };
        let grads = self.operands.pick(context.overwrite([0, 1, 2, 3])?);
        match x.device() {
            Device::Cpu => {
                let dstate = dstate.as_ref().map(Tensor::as_slice).transpose()?;
                let grads = grads.try_map(|_, grad| grad.mat())?;
                cpu::backward(&self.on_cpu()?, dy.mat()?, dstate, grads, false);
                Ok(())
            }
            Device::Cuda(_) => {
                let dstate = dstate.as_ref().map(Tensor::view);
                cuda::backward(&self.on_cuda()?, dy.view(), dstate, grads)
            }
        }
    }
}
