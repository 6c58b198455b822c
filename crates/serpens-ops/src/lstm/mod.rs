//! The recurrence of an LSTM (long short-term memory) over sequences, on the processor.
//!
//! With a\[t\] = gates\[t\] + W h\[t − 1\] in four parts of `width` channels, in PyTorch's order: i = σ(a₁), f = σ(a₂),
//! g = tanh(a₃), o = σ(a₄); c\[t\] = f c\[t − 1\] + i g, h\[t\] = o tanh c\[t\].
//!
//! - gates: (batch, length, 4 · width), what the input says, such as a linear map of it; W: (4 · width, width); y, the h
//!   of all positions: (batch, length, width). All f32; gates may be columns of wider rows.
//! - h, c before the first position: (batch, width), zeros where they are absent. Those behind the last are given back,
//!   so that chunks equal the whole.
//! - `starts`: where packed sequences start, from zeros. Whole rows begin with a sequence, so that they have no state
//!   before them; chunks of them ([`Starts::chunk`]) go on from it, and are the same sequences.
//!
//! The gradients go back through time from what the forward pass keeps, i, f, g, o and c of every position; that of W
//! is one product over all positions.
//!
//! Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of F. Gers et al., 2000.

pub mod cpu;
mod operands;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Result, Tensor, Var};

pub use operands::{Lstm, LstmDims, LstmOperands};

use crate::{DeviceStarts, Starts, check};

const OP: &str = "lstm";

/// What [`lstm`] gives.
pub struct LstmOutput {
    /// The h of all positions, (batch, length, width).
    pub y: Var,
    /// The last h, (batch, width).
    pub h: Var,
    /// The last c, (batch, width).
    pub c: Var,
}

/// The states of an LSTM from what the input says to its gates; see the head of this module.
///
/// # Shapes
/// gates (batch, length, 4 · width), weight (4 · width, width), h and c (batch, width)
///
/// # Errors
/// Shapes and types that do not fit; operands on a GPU ([`serpens_core::Error::Device`]); a state before whole packed
/// rows ([`serpens_core::Error::Surplus`]).
pub fn lstm(
    gates: &Var,
    weight: &Var,
    [h, c]: [Option<&Var>; 2],
    starts: Option<&Starts>,
) -> Result<LstmOutput> {
    let [batch, length, columns] =
        gates
            .shape()
            .axes(OP, "the gates", "(batch, length, 4 · width)")?;
    check::multiple(OP, "the columns of the gates", 4, columns)?;
    check::device(OP, "the gates", Device::Cpu, gates.device())?;
    let dims = LstmDims {
        batch,
        length,
        width: columns / 4,
    };
    let operands = LstmOperands {
        gates,
        weight,
        h,
        c,
    };
    operands.check(OP, &dims)?;
    let sizes = [batch, length];
    let lstm = Lstm {
        dims,
        operands: operands.map(|_, operand| operand.detach()),
        starts: DeviceStarts::new(starts, OP, sizes, false, h.or(c), Device::Cpu)?,
    };
    let empty = |width| Tensor::empty([batch, length, width], DType::F32, Device::Cpu);
    let (mut y, mut gates, mut cells) = (empty(dims.width)?, empty(columns)?, empty(dims.width)?);
    let states = [y.mat_mut()?, gates.mat_mut()?, cells.mat_mut()?];
    cpu::forward(&lstm.on_cpu()?, states);
    let last = |states: &Tensor, initial: Option<&Var>| {
        let mut last = Tensor::empty([batch, dims.width], DType::F32, Device::Cpu)?;
        let initial = initial.map(check::values).transpose()?;
        cpu::last(&dims, states.mat()?, initial, last.make_mut()?);
        Ok::<_, serpens_core::Error>(last)
    };
    let (last_h, last_c) = (last(&y, h)?, last(&cells, c)?);
    let operands = operands.into_array();
    let operation = tracked(&operands).then(|| {
        let y = y.clone();
        Box::new(LstmBackward {
            lstm,
            y,
            gates,
            cells,
        }) as Box<dyn Backward>
    });
    let [y, h, c] = record(OP, &operands, [y, last_h, last_c], operation)?;
    Ok(LstmOutput { y, h, c })
}

impl Lstm<Var, DeviceStarts> {
    /// As the kernels of the processor take it.
    fn on_cpu(&self) -> Result<cpu::Lstm<'_>> {
        Ok(Lstm {
            dims: self.dims,
            operands: self.operands.mats()?,
            starts: self.starts.as_ref().and_then(DeviceStarts::flags),
        })
    }
}

/// The recurrence with what it has found: h, the gates and c of every position.
struct LstmBackward {
    lstm: Lstm<Var, DeviceStarts>,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
}

impl Backward for LstmBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let arriving = [0, 1, 2].map(|i| context.take_output(i));
        let [dy, dh, dc] = arriving.each_ref().map(Option::as_ref);
        let arriving = cpu::Arriving {
            y: dy.map(Tensor::mat).transpose()?,
            h: dh.map(Tensor::mat).transpose()?,
            c: dc.map(Tensor::mat).transpose()?,
        };
        let found = cpu::Found {
            gates: self.gates.mat()?,
            cells: self.cells.mat()?,
        };
        let lstm = self.lstm.on_cpu()?;
        let grads = self.lstm.operands.pick(context.overwrite([0, 1, 2, 3])?);
        let mut gates = grads.gates;
        let states = [grads.h, grads.c].map(|grad| grad.map(|grad| grad.mat()).transpose());
        let [h, c] = states;
        cpu::backward(&lstm, &found, &arriving, gates.reborrow().mat()?, [h?, c?]);
        cpu::backward_weight(
            &lstm,
            self.y.mat()?,
            gates.as_view().mat()?,
            grads.weight.slice()?,
        );
        Ok(())
    }
}
