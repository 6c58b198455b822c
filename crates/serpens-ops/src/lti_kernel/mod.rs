//! Time-invariant state space models with diagonal A (S4D): the convolution kernel, and the recurrence it stands for.
//!
//! ```text
//! Ā = exp(Δ A)      B̄ = (Ā - 1)/A · B                                   (zero-order hold)
//! K[t, e] = s Re Σ_n C[e,n] Ā[e,n]^t B̄[e,n]  +  [t = 0] D[e]            (the kernel)
//! h_t = Ā h_(t-1) + B̄ u_t,    y_t = s Re <C, h_t> + D u_t               (the recurrence: y = u * K)
//! ```
//!
//! A, B, C: (channels, N), real with s = 1, or complex in two parts with s = 2, where a state stands for a conjugate
//! pair; Δ, D: (channels); K: (length, channels); a state is (batch, channels, N), or 2 N with real parts first. All
//! f32, but on a GPU u and y may both be bf16. Source: A. Gu, A. Gupta, K. Goel and C. Ré, "On the Parameterization and
//! Initialization of Diagonal State Space Models", arXiv 2206.11893.
//!
//! Gradients of the kernel come from S0 = Σ_t dK_t Ā^t and S1 = Σ_t t dK_t Ā^t; see `cpu`.

pub mod cpu;
pub(crate) mod cuda;
mod operands;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::BackwardContext;
use serpens_core::{DType, Device, Error, Result, Tensor, Var};

pub use operands::{LtiDims, LtiSystem};

use crate::check;
use crate::record::record;

const OP: &str = "lti_kernel";

/// The sizes, from the shape of A, after a check that everything fits.
fn dims(op: &'static str, system: &LtiSystem<&Var>) -> Result<LtiDims> {
    let [channels, state] = system.a.shape().axes(op, "A", "(channels, N)")?;
    let dims = LtiDims { channels, state };
    system.check(op, &dims)?;
    for (what, imaginary) in [("Im B", system.b_im), ("Im C", system.c_im)] {
        match (system.a_im, imaginary) {
            (Some(_), None) => return Err(Error::Missing { op, what }),
            (None, Some(_)) => return Err(Error::Surplus { op, what }),
            _ => {}
        }
    }
    Ok(dims)
}

impl LtiSystem<Var> {
    /// The system as the kernels of the processor take it.
    fn on_cpu(&self) -> Result<cpu::System<'_>> {
        Ok(self.mats()?.map(|_, values| values.into_slice()))
    }

    /// The system as the kernels of a GPU take it.
    fn on_cuda(&self, op: &'static str, dims: LtiDims) -> Result<cuda::SystemParams> {
        cuda::SystemParams::new(op, self.views()?, dims)
    }
}

/// The convolution kernel of a system: (length, channels), to be used with [`crate::long_conv::long_conv`].
///
/// # Errors
/// Shapes that do not fit; operands that are not f32.
pub fn lti_kernel(system: &LtiSystem<&Var>, length: usize) -> Result<Var> {
    let dims = dims(OP, system)?;
    let kept = system.map(|_, operand| operand.detach());
    let device = system.dt.device();
    let mut k = Tensor::empty([length, dims.channels], DType::F32, device)?;
    match device {
        Device::Cpu => cpu::forward(&kept.on_cpu()?, length, k.make_mut()?),
        Device::Cuda(_) => cuda::forward(kept.on_cuda(OP, dims)?, k.view_mut()?)?,
    }
    record(OP, &system.into_array(), k, || (kept, dims), backward)
}

fn backward(
    (system, dims): (LtiSystem<Var>, LtiDims),
    dk: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let gradients = context.overwrite(std::array::from_fn(|i| i))?;
    let gradients = system.pick(gradients);
    match dk.device() {
        Device::Cpu => {
            let gradients = gradients.try_map(|_, gradient| gradient.slice())?;
            let length = dk.shape().rows();
            cpu::backward(&system.on_cpu()?, length, dk.as_slice()?, gradients);
            Ok(())
        }
        Device::Cuda(_) => cuda::backward(system.on_cuda(OP, dims)?, dk.view(), gradients),
    }
}

/// What [`lti_recurrence`] gives.
pub struct LtiOutput {
    /// (batch, length, channels).
    pub y: Var,
    /// (batch, channels, N), or 2 N for a complex system.
    pub last_state: Var,
}

/// Runs a system step by step from `initial_state`. No gradient is recorded: it serves to run a trained model.
///
/// # Errors
/// Shapes that do not fit; operands that are not contiguous f32.
pub fn lti_recurrence(u: &Var, system: &LtiSystem<&Var>, initial_state: &Var) -> Result<LtiOutput> {
    const OP: &str = "lti_recurrence";
    let dims = dims(OP, system)?;
    let [batch, length, channels] = u.shape().axes(OP, "u", "(batch, length, channels)")?;
    check::shape(OP, "u", &[batch, length, dims.channels], u)?;
    check::device(OP, "u", system.dt.device(), u.device())?;
    let planes = if system.a_im.is_some() { 2 } else { 1 };
    let of_state = [batch, channels, planes * dims.state];
    check::shape(OP, "initial_state", &of_state, initial_state)?;
    let system = system.map(|_, operand| operand.detach());
    let mut y = Tensor::empty(u.shape(), u.dtype(), u.device())?;
    let mut state = initial_state.tensor()?.clone();
    match u.device() {
        Device::Cpu => cpu::recurrence::run(
            &system.on_cpu()?,
            (batch, length),
            check::values(u)?,
            y.make_mut()?,
            state.make_mut()?,
        ),
        Device::Cuda(_) => cuda::recurrence(
            system.on_cuda(OP, dims)?,
            batch,
            u.view(),
            y.view_mut()?,
            state.view_mut()?,
        )?,
    }
    Ok(LtiOutput {
        y: y.into(),
        last_state: state.into(),
    })
}
