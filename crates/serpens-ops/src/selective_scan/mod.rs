//! The selective scan, the recurrence at the heart of Mamba (arXiv 2312.00752, section 3):
//!
//! ```text
//! δ_t = softplus(Δ_t + bias)                       (softplus and bias optional)
//! h_t = exp(δ_t A) h_(t-1) + δ_t B_t u_t           h: N values per channel
//! y_t = <C_t, h_t> + D u_t                         out_t = y_t silu(z_t)   (D and z optional)
//! ```
//!
//! Under zero-order hold the input is not δ_t B_t u_t, Euler's rule and that of published models, but exact for a u
//! that stays between two positions: w_t B_t u_t with w_t = (exp(δ_t A) - 1) / A, or δ_t where A is zero. A is real
//! there. The gradients of w are dw/dδ = exp(δ A) and dw/dA = (δ exp(δ A) - w) / A, which is δ² / 2 where A is zero.
//!
//! Shapes: u, Δ, z, out (batch, length, channels); A (channels, N); B, C (batch, length, groups, N); D, bias
//! (channels); initial and last state (batch, channels, N). Channel c reads group c / (channels / groups) of B and C.
//!
//! With complex A the state, B and C are complex and `y_t = 2 Re <C_t, h_t> + D u_t` (no conjugation): every conjugate
//! pair of states is kept once. B and C then hold 2N values per group, and a state 2N per channel: N real parts, then N
//! imaginary ones.
//!
//! Packed sequences: where one starts the state is zero before that position, so several sequences share one row. In
//! reverse the recurrence runs from the last position to the first, and the state is zero before it enters a sequence
//! at its end. A row that begins with a sequence takes nothing of the initial state, whose gradient is zero there;
//! whole rows do, so that they have none: chunks of them ([`Starts::chunk`]) go on from it.
//!
//! All values are f32; on a GPU u, Δ, z, B, C, y and their gradients may all be bf16. The backward recomputes the
//! states from checkpoints that the forward saved. Results do not depend on the number of threads.
//!
//! [`step`] computes one position of many sequences, whose states it moves on in place.
//!
//! On a GPU the backward takes 8 · blocks · batch · length · groups · P N bytes for sums of dB and dC, with a block for
//! every 8 to 32 channels (N to 16: 32), and shared memory that grows with N: a card that has too little says so.

pub mod cpu;
pub mod cuda;
mod operands;
mod step;
#[cfg(test)]
pub(crate) mod tests;

pub use operands::{Dims, Scan, ScanOperands};
pub use step::{StepDelta, StepOperands, step};

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var};
use smart_default::SmartDefault;

use crate::{DeviceStarts, Starts, check};

const OP: &str = "selective_scan";

/// How [`selective_scan`] reads it.
#[derive(Clone, Copy, Debug, SmartDefault)]
pub struct ScanOptions<'a> {
    /// Groups of channels that share B and C.
    #[default = 1]
    pub groups: usize,
    /// Whether δ = softplus(Δ + bias) or δ = Δ + bias.
    #[default = true]
    pub softplus: bool,
    /// Whether the input is exact for a u that stays between two positions, of a real A; otherwise it is δ B u.
    pub zero_order_hold: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
    /// Where packed sequences start; of whole rows only where there is no initial state.
    pub starts: Option<&'a Starts>,
}

/// What [`selective_scan`] gives.
pub struct ScanOutput {
    /// (batch, length, channels).
    pub y: Var,
    /// The state after the last step: (batch, channels, P N).
    pub last_state: Var,
}

/// The selective scan; see the head of this module. Gradients flow to every operand, through both outputs.
///
/// # Errors
/// Shapes that do not fit; operands of other types than the head of this module says, or on different devices; N
/// outside 1..=256; groups that do not divide the channels; an initial state before whole packed rows, or a complex A
/// under zero-order hold ([`Error::Surplus`]).
pub fn selective_scan(
    operands: &ScanOperands<&Var>,
    options: &ScanOptions<'_>,
) -> Result<ScanOutput> {
    let dims = dims(operands, options.groups)?;
    operands.check(OP, &dims)?;
    if dims.complex && options.zero_order_hold {
        let what = "Im A (zero-order hold is for a real A)";
        return Err(Error::Surplus { op: OP, what });
    }
    let (u, device) = (operands.u, operands.u.device());
    let (sizes, state) = ([dims.batch, dims.length], operands.initial_state);
    let starts = DeviceStarts::new(options.starts, OP, sizes, options.reverse, state, device)?;
    let scan = Scan {
        dims,
        operands: operands.map(|_, operand| operand.detach()),
        starts,
        softplus: options.softplus,
        zero_order_hold: options.zero_order_hold,
        reverse: options.reverse,
    };
    let mut y = Tensor::empty(u.shape(), u.dtype(), device)?;
    let state = [dims.batch, dims.channels, dims.width()];
    let mut last = Tensor::empty(state, DType::F32, device)?;
    let operands = operands.into_array();
    let checkpoints = || Tensor::empty([dims.checkpoint_len()], DType::F32, device);
    let mut checkpoints = tracked(&operands).then(checkpoints).transpose()?;
    forward(&scan, &mut y, &mut last, checkpoints.as_mut())?;
    let keep = |checkpoints| Box::new(ScanBackward { scan, checkpoints }) as Box<dyn Backward>;
    let [y, last_state] = record(OP, &operands, [y, last], checkpoints.map(keep))?;
    Ok(ScanOutput { y, last_state })
}

/// The sizes, from the shapes of u and A.
fn dims(operands: &ScanOperands<&Var>, groups: usize) -> Result<Dims> {
    let (u, a) = (operands.u, operands.a);
    let [batch, length, channels] = u.shape().axes(OP, "u", "(batch, length, channels)")?;
    let [_, state] = a.shape().axes(OP, "A", "(channels, N)")?;
    check::range(OP, "the state size N", 1..257, state)?;
    check::range(OP, "the number of groups", 1..usize::MAX, groups)?;
    check::multiple(OP, "the number of channels", groups, channels)?;
    if u.shape().contains(&0) {
        let expected = "at least one value on every axis";
        return Err(Error::shape(OP, "u", expected, u.shape()));
    }
    Ok(Dims {
        batch,
        length,
        channels,
        state,
        complex: operands.a_im.is_some(),
        groups,
    })
}

impl Scan<Var, DeviceStarts> {
    /// The same scan over what the kernels of a device take.
    fn over<T, S>(&self, operands: ScanOperands<T>, starts: Option<S>) -> Scan<T, S> {
        Scan {
            dims: self.dims,
            operands,
            starts,
            softplus: self.softplus,
            zero_order_hold: self.zero_order_hold,
            reverse: self.reverse,
        }
    }

    fn on_cpu(&self) -> Result<cpu::Scan<'_>> {
        let starts = self.starts.as_ref().and_then(DeviceStarts::flags);
        Ok(self.over(self.operands.mats()?, starts))
    }

    fn on_cuda(&self) -> Result<cuda::Scan<'_>> {
        let starts = self.starts.as_ref().and_then(DeviceStarts::bytes);
        Ok(self.over(self.operands.views()?, starts))
    }
}

fn forward(
    scan: &Scan<Var, DeviceStarts>,
    y: &mut Tensor,
    last: &mut Tensor,
    checkpoints: Option<&mut Tensor>,
) -> Result<()> {
    match y.device() {
        Device::Cpu => {
            let checkpoints = checkpoints.map(Tensor::make_mut).transpose()?;
            let last = Some(last.make_mut()?);
            cpu::forward(&scan.on_cpu()?, y.mat_mut()?, last, checkpoints);
            Ok(())
        }
        Device::Cuda(_) => {
            let checkpoints = checkpoints.map(Tensor::view_mut).transpose()?;
            let last = last.view_mut()?;
            cuda::forward(&scan.on_cuda()?, y.view_mut()?, last, checkpoints)
        }
    }
}

/// The scan and sparse checkpoints of its state; the states between them are computed again.
struct ScanBackward {
    scan: Scan<Var, DeviceStarts>,
    checkpoints: Tensor,
}

impl Backward for ScanBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Self { scan, checkpoints } = *self;
        let u = &scan.operands.u;
        let dlast = context.take_output(1);
        let dy = match context.take_output(0) {
            Some(dy) => dy,
            None => Tensor::zeros(u.shape(), u.dtype(), u.device())?,
        };
        let grads = context.overwrite(std::array::from_fn(|i| i))?;
        let grads = scan.operands.pick(grads);
        match u.device() {
            Device::Cpu => {
                let dlast = dlast.as_ref().map(Tensor::as_slice).transpose()?;
                let grads = grads.try_map(|_, grad| grad.mat())?;
                let checkpoints = checkpoints.as_slice()?;
                cpu::backward(&scan.on_cpu()?, checkpoints, dy.mat()?, dlast, grads);
                Ok(())
            }
            Device::Cuda(_) => {
                let (checkpoints, dlast) = (checkpoints.view(), dlast.as_ref().map(Tensor::view));
                cuda::backward(&scan.on_cuda()?, checkpoints, dy.view(), dlast, grads)
            }
        }
    }
}
