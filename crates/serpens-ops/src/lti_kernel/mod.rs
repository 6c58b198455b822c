//! Time-invariant state space models with diagonal A (S4D): the convolution kernel, and the recurrence it stands for.
//!
//! ```text
//! Ā = exp(Δ A)      B̄ = (Ā - 1)/A · B                                   (zero-order hold)
//! K[t, e] = s Re Σ_n C[e,n] Ā[e,n]^t B̄[e,n]  +  [t = 0] D[e]            (the kernel)
//! h_t = Ā h_(t-1) + B̄ u_t,    y_t = s Re <C, h_t> + D u_t               (the recurrence: y = u * K)
//! ```
//!
//! A, B, C: (channels, N), real with s = 1, or complex in two parts with s = 2, where a state stands for a conjugate pair;
//! Δ, D: (channels); K: (length, channels); a state is (batch, channels, N), or 2 N with real parts first. All f32, but on a GPU
//! u and y may both be bf16.
//! Source: A. Gu, A. Gupta, K. Goel and C. Ré, "On the Parameterization and Initialization of Diagonal State Space Models",
//! arXiv 2206.11893.
//!
//! Gradients of the kernel come from S0 = Σ_t dK_t Ā^t and S1 = Σ_t t dK_t Ā^t; see `cpu.rs`.

pub mod cpu;
pub mod cuda;
mod powers;
pub mod recurrence;
#[cfg(test)]
pub(crate) mod tests;
mod zero_order_hold;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var};

use crate::check;

/// A diagonal time-invariant system. The imaginary parts are all given or none.
#[derive(Clone, Copy)]
pub struct LtiSystem<'a> {
    /// Step size Δ > 0: (channels).
    pub dt: &'a Var,
    /// Re A: (channels, N).
    pub a: &'a Var,
    /// Im A.
    pub a_imag: Option<&'a Var>,
    /// Re B: (channels, N).
    pub b: &'a Var,
    /// Im B.
    pub b_imag: Option<&'a Var>,
    /// Re C: (channels, N).
    pub c: &'a Var,
    /// Im C.
    pub c_imag: Option<&'a Var>,
    /// The skip D: (channels).
    pub d: Option<&'a Var>,
}

const OP: &str = "lti_kernel";

/// The operands by position on the tape.
const OPERANDS: usize = 8;

impl LtiSystem<'_> {
    fn operands(&self) -> [Option<&Var>; OPERANDS] {
        [
            Some(self.dt),
            Some(self.a),
            self.a_imag,
            Some(self.b),
            self.b_imag,
            Some(self.c),
            self.c_imag,
            self.d,
        ]
    }

    fn save(&self, op: &'static str) -> Result<Saved> {
        let [channels, state] = check::axes(op, "A", "(channels, N)", self.a)?;
        let complex = self.a_imag.is_some();
        check::shape(op, "dt", &[channels], self.dt)?;
        check::optional(op, "D", &[channels], self.d)?;
        for (what, part) in [("B", self.b), ("C", self.c)] {
            check::shape(op, what, &[channels, state], part)?;
        }
        for (what, part) in [
            ("Im A", self.a_imag),
            ("Im B", self.b_imag),
            ("Im C", self.c_imag),
        ] {
            check::optional(op, what, &[channels, state], part)?;
            if part.is_some() != complex {
                return Err(match complex {
                    true => Error::Missing { op, what },
                    false => Error::Surplus { op, what },
                });
            }
        }
        Ok(Saved {
            operands: self.operands().map(|var| var.map(Var::detach)),
            channels,
            state,
        })
    }
}

/// A system with its own handles on the operands.
struct Saved {
    operands: [Option<Var>; OPERANDS],
    channels: usize,
    state: usize,
}

impl Saved {
    fn values(&self, index: usize) -> Result<Option<&[f32]>> {
        self.operands[index].as_ref().map(check::values).transpose()
    }

    fn needed(&self, index: usize) -> Result<&[f32]> {
        Ok(self.values(index)?.unwrap_or_default())
    }

    /// The system as the kernels of the processor take it.
    fn system(&self) -> Result<cpu::System<'_>> {
        Ok(cpu::System {
            channels: self.channels,
            state: self.state,
            dt: self.needed(0)?,
            a: self.needed(1)?,
            a_im: self.values(2)?,
            b: self.needed(3)?,
            b_im: self.values(4)?,
            c: self.needed(5)?,
            c_im: self.values(6)?,
            d: self.values(7)?,
        })
    }

    /// The system as the kernels of a GPU take it.
    fn on_gpu(&self, op: &'static str, device: Device) -> Result<cuda::SystemParams> {
        cuda::SystemParams::new(op, device, &self.operands, self.channels, self.state)
    }
}

/// The convolution kernel of a system: (length, channels), to be used with [`crate::long_conv::long_conv`].
///
/// # Errors
/// Shapes that do not fit; operands that are not f32.
pub fn lti_kernel(system: &LtiSystem<'_>, length: usize) -> Result<Var> {
    let saved = system.save(OP)?;
    let device = system.a.tensor()?.device();
    let mut k = Tensor::empty([length, saved.channels], DType::F32, device)?;
    match device {
        Device::Cpu => cpu::forward(&saved.system()?, length, k.make_mut()?),
        Device::Cuda(_) => cuda::forward(saved.on_gpu(OP, device)?, k.view_mut()?)?,
    }
    let operands = system.operands();
    let operation =
        tracked(&operands).then(|| Box::new(KernelBackward { saved, length }) as Box<dyn Backward>);
    let [k] = record(OP, &operands, [k], operation)?;
    Ok(k)
}

struct KernelBackward {
    saved: Saved,
    length: usize,
}

impl Backward for KernelBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(dk) = context.take_output(0) else {
            return Ok(());
        };
        let gradients = context.overwrite([0, 1, 2, 3, 4, 5, 6, 7])?;
        if dk.device() != Device::Cpu {
            return cuda::backward(self.saved.on_gpu(OP, dk.device())?, dk.view(), gradients);
        }
        let [dt, a, a_im, b, b_im, c, c_im, d] = gradients;
        let system = self.saved.system()?;
        let complex = system.a_im.is_some();
        let grads = cpu::Grads {
            dt: dt.slice()?,
            a: a.slice()?,
            a_im: complex.then(|| a_im.slice()).transpose()?,
            b: b.slice()?,
            b_im: complex.then(|| b_im.slice()).transpose()?,
            c: c.slice()?,
            c_im: complex.then(|| c_im.slice()).transpose()?,
            d: system.d.map(|_| d.slice()).transpose()?,
        };
        cpu::backward(&system, self.length, dk.as_slice()?, grads);
        Ok(())
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
pub fn lti_recurrence(u: &Var, system: &LtiSystem<'_>, initial_state: &Var) -> Result<LtiOutput> {
    const OP: &str = "lti_recurrence";
    let saved = system.save(OP)?;
    let [batch, length, channels] = check::axes(OP, "u", "(batch, length, channels)", u)?;
    check::shape(OP, "u", &[batch, length, saved.channels], u)?;
    let planes = if system.a_imag.is_some() { 2 } else { 1 };
    let of_state = [batch, channels, planes * saved.state];
    check::shape(OP, "initial_state", &of_state, initial_state)?;
    let device = u.device();
    let mut y = Tensor::empty(u.shape(), u.dtype(), device)?;
    let mut state = initial_state.tensor()?.clone();
    match device {
        Device::Cpu => recurrence::run(
            &saved.system()?,
            (batch, length),
            check::values(u)?,
            y.make_mut()?,
            state.make_mut()?,
        ),
        Device::Cuda(_) => cuda::recurrence(
            saved.on_gpu(OP, device)?,
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
