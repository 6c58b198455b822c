//! Causal depthwise convolution with carried state, packed sequences and either direction.
//!
//! y\[b, t, e\] = act(bias\[e\] + Σ_{k<W} weight\[e, k\] · x\[b, t − W + 1 + k, e\]), act the identity or silu.
//!
//! - x, y: (batch, length, channels), seen as batch·length rows that may be columns of wider rows; weight: (channels, W), W ≥ 1,
//!   which is a checkpoint's (channels, 1, W) flattened; bias: (channels), optional. All f32.
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
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Error, Result, Tensor, Var};

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
/// Shapes that do not fit; operands that are not f32; a width of 0.
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
    if width == 0 {
        return Err(Error::argument(OP, "the width is 0, it must be at least 1"));
    }
    let state_shape = [batch, width - 1, channels];
    check::optional(OP, "initial_state", &state_shape, initial_state)?;
    let flags = options
        .starts
        .map(|starts| starts.flags(OP, batch, length))
        .transpose()?;
    let saved = ConvBackward {
        x: x.detach(),
        weight: weight.detach(),
        bias: bias.map(Var::detach),
        initial_state: initial_state.map(Var::detach),
        starts: flags.map(<[bool]>::to_vec),
        silu: options.silu,
        reverse: options.reverse,
    };
    let device = weight.tensor()?.device();
    let mut y = Tensor::empty([batch, length, channels], DType::F32, device)?;
    let mut state = Tensor::empty(state_shape, DType::F32, device)?;
    cpu::forward(
        &saved.conv()?,
        x.mat()?,
        y.mat_mut()?,
        Some(state.make_mut()?),
    );
    let operands = [Some(x), Some(weight), bias, initial_state];
    let operation = tracked(&operands).then(|| Box::new(saved) as Box<dyn Backward>);
    let [y, final_state] = record(OP, &operands, [y, state], operation)?;
    Ok(ConvOutput { y, final_state })
}

/// The sums before the activation are computed again.
struct ConvBackward {
    x: Var,
    weight: Var,
    bias: Option<Var>,
    initial_state: Option<Var>,
    starts: Option<Vec<bool>>,
    silu: bool,
    reverse: bool,
}

impl ConvBackward {
    /// The operands as the kernels take them.
    fn conv(&self) -> Result<cpu::Conv<'_>> {
        let [batch, length, _] = check::axes(OP, "x", "(batch, length, channels)", &self.x)?;
        Ok(cpu::Conv {
            batch,
            length,
            width: self.weight.shape().cols(),
            weight: check::values(&self.weight)?,
            bias: self.bias.as_ref().map(check::values).transpose()?,
            initial_state: self.initial_state.as_ref().map(check::values).transpose()?,
            starts: self.starts.as_deref(),
            silu: self.silu,
            reverse: self.reverse,
        })
    }
}

impl Backward for ConvBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let dstate = context.take_output(1);
        let dy = match context.take_output(0) {
            Some(dy) => dy,
            None => Tensor::zeros(self.x.shape(), DType::F32, self.weight.tensor()?.device())?,
        };
        let [dx, dweight, dbias, dinitial] = context.overwrite([0, 1, 2, 3])?;
        let gradients = cpu::Gradients {
            dx: dx.mat()?,
            dweight: dweight.slice()?,
            dbias: self.bias.as_ref().map(|_| dbias.slice()).transpose()?,
            accumulate: false,
            dinitial_state: self
                .initial_state
                .as_ref()
                .map(|_| dinitial.slice())
                .transpose()?,
        };
        let dstate = dstate.as_ref().map(Tensor::as_slice).transpose()?;
        cpu::backward(&self.conv()?, self.x.mat()?, dy.mat()?, dstate, gradients);
        Ok(())
    }
}
