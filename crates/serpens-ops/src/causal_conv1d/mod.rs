//! Causal depthwise convolution with carried state, packed sequences and either direction.
//!
//! y\[b, t, e\] = act(bias\[e\] + Σ_{k<W} weight\[e, k\] · x\[b, t − W + 1 + k, e\]), act the identity or silu.
//!
//! - x, y: (batch, length, channels), seen as batch·length rows that may be columns of wider rows; weight: (channels, W), W ≥ 1,
//!   which is a checkpoint's (channels, 1, W) flattened; bias: (channels), optional. All f32, but on a GPU x, y and their
//!   gradients may be bf16.
//! - `initial_state`: (batch, W − 1, channels), the inputs before t = 0, the oldest first; zeros where it is absent. The final
//!   state has the same layout and holds the last W − 1 inputs, those of the initial state among them where length < W − 1.
//! - `starts`: (batch, length), true where a packed sequence begins: from there on no earlier input of the row is seen, neither
//!   of x nor of the initial state. Inputs that the last start hides are zero in the final state, so that a sequence cut in
//!   chunks stays the same sequence.
//! - `reverse`: the mirror image. Position t sees t..t + W − 1, up to where the next sequence starts; the state holds the inputs
//!   behind the end, the farthest first, and the final state the first inputs. It equals flipping every sequence in time,
//!   convolving forward and flipping back.
//!
//! The backward pass computes the value before the activation anew from x, so that nothing is stored for it.

pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Result, Tensor, Var, View, ViewMut};

use crate::{Starts, check};

const OP: &str = "causal_conv1d";

/// How [`causal_conv1d`] reads its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvOptions<'a> {
    /// Whether SiLU is applied to the sum.
    pub silu: bool,
    /// Where packed sequences start.
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
/// x (batch, length, channels), weight (channels, 1, width), bias (channels), initial_state (batch, width - 1, channels)
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says; a width of 0.
pub fn causal_conv1d(
    x: &Var,
    weight: &Var,
    bias: Option<&Var>,
    initial_state: Option<&Var>,
    options: &ConvOptions<'_>,
) -> Result<ConvOutput> {
    let [batch, length, channels] = check::axes(OP, "x", "(batch, length, channels)", x)?;
    let [_, _, width] = check::axes(OP, "weight", "(channels, 1, width)", weight)?;
    check::shape(OP, "weight", &[channels, 1, width], weight)?;
    check::optional(OP, "bias", &[channels], bias)?;
    check::range(OP, "the width", 1..usize::MAX, width)?;
    let state_shape = [batch, width - 1, channels];
    check::optional(OP, "initial_state", &state_shape, initial_state)?;
    let device = weight.tensor()?.device();
    let flags = options.starts.map(|starts| match device {
        Device::Cpu => Ok(Flags::Host(starts.flags(OP, batch, length)?.to_vec())),
        Device::Cuda(_) => Ok(Flags::Device(starts.bytes(OP, batch, length, device)?)),
    });
    let saved = ConvBackward {
        x: x.detach(),
        weight: weight.detach(),
        bias: bias.map(Var::detach),
        initial_state: initial_state.map(Var::detach),
        starts: flags.transpose()?,
        silu: options.silu,
        reverse: options.reverse,
    };
    let mut y = Tensor::empty([batch, length, channels], x.dtype(), device)?;
    let mut state = Tensor::empty(state_shape, DType::F32, device)?;
    match device {
        Device::Cpu => {
            let state = Some(state.make_mut()?);
            cpu::forward(&saved.on_cpu()?, x.mat()?, y.mat_mut()?, state);
        }
        Device::Cuda(_) => {
            let state = state.view_mut()?;
            cuda::forward(&saved.on_gpu()?, x.view(), y.view_mut()?, state)?;
        }
    }
    let operands = [Some(x), Some(weight), bias, initial_state];
    let operation = tracked(&operands).then(|| Box::new(saved) as Box<dyn Backward>);
    let [y, final_state] = record(OP, &operands, [y, state], operation)?;
    Ok(ConvOutput { y, final_state })
}

/// Where packed sequences start, as the kernels of a device take it.
enum Flags {
    Host(Vec<bool>),
    /// A byte for each position.
    Device(Tensor),
}

/// The sums before the activation are computed again.
struct ConvBackward {
    x: Var,
    weight: Var,
    bias: Option<Var>,
    initial_state: Option<Var>,
    starts: Option<Flags>,
    silu: bool,
    reverse: bool,
}

impl ConvBackward {
    /// The operands as the kernels of the processor take them.
    fn on_cpu(&self) -> Result<cpu::Conv<'_>> {
        let [batch, length, _] = check::axes(OP, "x", "(batch, length, channels)", &self.x)?;
        Ok(cpu::Conv {
            batch,
            length,
            width: self.weight.shape().cols(),
            weight: check::values(&self.weight)?,
            bias: self.bias.as_ref().map(check::values).transpose()?,
            initial_state: self.initial_state.as_ref().map(check::values).transpose()?,
            starts: match &self.starts {
                Some(Flags::Host(flags)) => Some(flags),
                _ => None,
            },
            silu: self.silu,
            reverse: self.reverse,
        })
    }

    /// The operands as the kernels of a GPU take them.
    fn on_gpu(&self) -> Result<cuda::Conv<'_>> {
        let [batch, length, _] = check::axes(OP, "x", "(batch, length, channels)", &self.x)?;
        Ok(cuda::Conv {
            batch,
            length,
            width: self.weight.shape().cols(),
            weight: self.weight.tensor()?.view(),
            bias: dense(self.bias.as_ref())?,
            initial_state: dense(self.initial_state.as_ref())?,
            starts: match &self.starts {
                Some(Flags::Device(bytes)) => Some(bytes.view()),
                _ => None,
            },
            silu: self.silu,
            reverse: self.reverse,
        })
    }
}

/// The values of an operand that must be contiguous.
fn dense(var: Option<&Var>) -> Result<Option<View<'_>>> {
    let tensor = var.map(Var::tensor).transpose()?;
    Ok(tensor.map(Tensor::view))
}

impl Backward for ConvBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let device = self.weight.tensor()?.device();
        let dstate = context.take_output(1);
        let dy = match context.take_output(0) {
            Some(dy) => dy,
            None => Tensor::zeros(self.x.shape(), self.x.dtype(), device)?,
        };
        let [dx, dweight, dbias, dinitial] = context.overwrite([0, 1, 2, 3])?;
        let dbias = self.bias.as_ref().map(|_| dbias);
        let dinitial_state = self.initial_state.as_ref().map(|_| dinitial);
        if let Device::Cuda(_) = device {
            let gradients = cuda::Gradients {
                dx,
                dweight,
                dbias,
                dinitial_state,
            };
            let dstate = dstate.as_ref().map(Tensor::view);
            return cuda::backward(&self.on_gpu()?, self.x.view(), dy.view(), dstate, gradients);
        }
        let gradients = cpu::Gradients {
            dx: dx.mat()?,
            dweight: dweight.slice()?,
            dbias: dbias.map(ViewMut::slice).transpose()?,
            accumulate: false,
            dinitial_state: dinitial_state.map(ViewMut::slice).transpose()?,
        };
        let dstate = dstate.as_ref().map(Tensor::as_slice).transpose()?;
        cpu::backward(&self.on_cpu()?, self.x.mat()?, dy.mat()?, dstate, gradients);
        Ok(())
    }
}
