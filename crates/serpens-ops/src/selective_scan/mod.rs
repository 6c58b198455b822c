//! The selective scan, the recurrence at the heart of Mamba (arXiv 2312.00752, section 3):
//!
//! ```text
//! δ_t = softplus(Δ_t + bias)                       (softplus and bias optional)
//! h_t = exp(δ_t A) h_(t-1) + δ_t B_t u_t           h: N values per channel
//! y_t = <C_t, h_t> + D u_t                         out_t = y_t silu(z_t)   (D and z optional)
//! ```
//!
//! Shapes: u, Δ, z, out (batch, length, channels); A (channels, N); B, C (batch, length, groups, N); D, bias (channels);
//! initial and last state (batch, channels, N). Channel c reads group c / (channels / groups) of B and C.
//!
//! With complex A the state, B and C are complex and `y_t = 2 Re <C_t, h_t> + D u_t` (no conjugation): every conjugate pair of
//! states is kept once. B and C then hold 2N values per group, and a state 2N per channel: N real parts, then N imaginary ones.
//!
//! Packed sequences: where `starts` is true the state is zero before that position, so several sequences share one row. In
//! reverse the recurrence runs from the last position to the first, and the state resets between t + 1 and t where t + 1 starts.
//!
//! All values are f32; on a GPU u, Δ, z, B, C, y and their gradients may all be bf16. The backward recomputes the states from
//! checkpoints that the forward saved. Results do not depend on the number of threads.
//!
//! On a GPU the backward takes 8 · blocks · batch · length · groups · P N bytes for sums of dB and dC, with a block for every 8
//! to 32 channels (N to 16: 32), and shared memory that grows with N: a card that has too little says so.

pub mod cpu;
pub mod cuda;
pub mod reference;
#[cfg(test)]
mod tests;

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var, View, ViewMut};

use crate::{Starts, check};

const OP: &str = "selective_scan";

/// The diagonal A, (channels, N), negative where the state is to decay.
#[derive(Clone, Copy)]
pub enum A<'a> {
    /// Real.
    Real(&'a Var),
    /// Complex, in two parts; the state stands for conjugate pairs.
    Complex {
        /// Real parts.
        re: &'a Var,
        /// Imaginary parts.
        im: &'a Var,
    },
}

/// What [`selective_scan`] reads; P is 1 for a real A and 2 for a complex one.
#[derive(Clone, Copy)]
pub struct ScanInputs<'a> {
    /// (batch, length, channels).
    pub u: &'a Var,
    /// Δ before bias and softplus: (batch, length, channels).
    pub delta: &'a Var,
    /// A.
    pub a: A<'a>,
    /// (batch, length, groups P N).
    pub b: &'a Var,
    /// As `b`.
    pub c: &'a Var,
    /// (channels).
    pub d: Option<&'a Var>,
    /// The gate: (batch, length, channels).
    pub z: Option<&'a Var>,
    /// (channels).
    pub delta_bias: Option<&'a Var>,
    /// (batch, channels, P N); zeros where absent.
    pub initial_state: Option<&'a Var>,
}

/// How [`selective_scan`] reads it.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions<'a> {
    /// Groups of channels that share B and C.
    pub groups: usize,
    /// Whether δ = softplus(Δ + bias) or δ = Δ + bias.
    pub softplus: bool,
    /// Whether time runs from the last position to the first.
    pub reverse: bool,
    /// Where packed sequences start.
    pub starts: Option<&'a Starts>,
}

impl Default for ScanOptions<'_> {
    /// One group, softplus, forward, not packed.
    fn default() -> Self {
        Self {
            groups: 1,
            softplus: true,
            reverse: false,
            starts: None,
        }
    }
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
/// Shapes that do not fit; operands of other types than the head of this module says, or on different devices; N outside 1..=256;
/// groups that do not divide the channels.
pub fn selective_scan(inputs: &ScanInputs<'_>, options: &ScanOptions<'_>) -> Result<ScanOutput> {
    let dims = check_shapes(inputs, options.groups)?;
    let device = inputs.u.device();
    check_types(inputs, device)?;
    let (a, a_im) = match inputs.a {
        A::Real(a) => (a, None),
        A::Complex { re, im } => (re, Some(im)),
    };
    let parts = if a_im.is_some() { 2 } else { 1 };
    let saved = ScanBackward {
        dims,
        u: inputs.u.detach(),
        delta: inputs.delta.detach(),
        a: a.detach(),
        a_im: a_im.map(Var::detach),
        b: inputs.b.detach(),
        c: inputs.c.detach(),
        d: inputs.d.map(Var::detach),
        z: inputs.z.map(Var::detach),
        delta_bias: inputs.delta_bias.map(Var::detach),
        initial_state: inputs.initial_state.map(Var::detach),
        resets: options
            .starts
            .map(|starts| Resets::new(starts, &dims, device))
            .transpose()?,
        softplus: options.softplus,
        reverse: options.reverse,
        checkpoints: None,
    };
    let state_shape = [dims.batch, dims.channels, parts * dims.state];
    let mut y = Tensor::empty(inputs.u.shape(), inputs.u.dtype(), device)?;
    let mut last = Tensor::empty(state_shape, DType::F32, device)?;
    let operands = operands(inputs);
    if !tracked(&operands) {
        saved.forward(&mut y, &mut last, None)?;
        let [y, last_state] = record(OP, &operands, [y, last], None)?;
        return Ok(ScanOutput { y, last_state });
    }
    let count = cpu::checkpoint_len(&dims, parts);
    let mut checkpoints = Tensor::empty([count], DType::F32, device)?;
    saved.forward(&mut y, &mut last, Some(&mut checkpoints))?;
    let operation = Box::new(ScanBackward {
        checkpoints: Some(checkpoints),
        ..saved
    });
    let [y, last_state] = record(OP, &operands, [y, last], Some(operation))?;
    Ok(ScanOutput { y, last_state })
}

/// All operands in the order in which the tape knows them.
fn operands<'a>(inputs: &ScanInputs<'a>) -> [Option<&'a Var>; 10] {
    let (a, a_im) = match inputs.a {
        A::Real(a) => (a, None),
        A::Complex { re, im } => (re, Some(im)),
    };
    [
        Some(inputs.u),
        Some(inputs.delta),
        Some(a),
        a_im,
        Some(inputs.b),
        Some(inputs.c),
        inputs.d,
        inputs.z,
        inputs.delta_bias,
        inputs.initial_state,
    ]
}

/// The names of [`operands`], and whether they are of the type of u or f32.
const OPERANDS: [(&str, bool); 10] = [
    ("u", true),
    ("delta", true),
    ("A", false),
    ("Im A", false),
    ("B", true),
    ("C", true),
    ("D", false),
    ("z", true),
    ("delta_bias", false),
    ("initial_state", false),
];

fn check_types(inputs: &ScanInputs<'_>, device: Device) -> Result<()> {
    let of_u = inputs.u.dtype();
    match device {
        Device::Cpu => check::dtype(OP, "u", DType::F32, of_u)?,
        Device::Cuda(_) => check::float(OP, "u", of_u)?,
    }
    for (operand, (name, as_u)) in operands(inputs).into_iter().zip(OPERANDS) {
        let Some(operand) = operand else { continue };
        check::device(OP, name, device, operand.device())?;
        let expected = if as_u { of_u } else { DType::F32 };
        check::dtype(OP, name, expected, operand.dtype())?;
    }
    Ok(())
}

fn check_shapes(inputs: &ScanInputs<'_>, groups: usize) -> Result<cpu::Dims> {
    let [batch, length, channels] = check::axes(OP, "u", "(batch, length, channels)", inputs.u)?;
    let (a, a_im) = match inputs.a {
        A::Real(a) => (a, None),
        A::Complex { re, im } => (re, Some(im)),
    };
    let [_, state] = check::axes(OP, "A", "(channels, N)", a)?;
    check::shape(OP, "A", &[channels, state], a)?;
    check::optional(OP, "Im A", &[channels, state], a_im)?;
    if !(1..=256).contains(&state) {
        let reason = format!("the state size N is {state}, it goes from 1 to 256");
        return Err(Error::argument(OP, reason));
    }
    let width = if a_im.is_some() { 2 * state } else { state };
    if groups == 0 || !channels.is_multiple_of(groups) {
        let reason = format!("{groups} groups do not divide {channels} channels");
        return Err(Error::argument(OP, reason));
    }
    let sequence = [batch, length, channels];
    let of_groups = [batch, length, groups * width];
    check::shape(OP, "delta", &sequence, inputs.delta)?;
    check::shape(OP, "B", &of_groups, inputs.b)?;
    check::shape(OP, "C", &of_groups, inputs.c)?;
    check::optional(OP, "D", &[channels], inputs.d)?;
    check::optional(OP, "z", &sequence, inputs.z)?;
    check::optional(OP, "delta_bias", &[channels], inputs.delta_bias)?;
    let of_state = [batch, channels, width];
    check::optional(OP, "initial_state", &of_state, inputs.initial_state)?;
    if inputs.u.shape().contains(&0) {
        return Err(Error::shape(
            OP,
            "u",
            "at least one value on every axis",
            inputs.u.shape(),
        ));
    }
    Ok(cpu::Dims {
        batch,
        length,
        channels,
        state,
        groups,
    })
}

/// Where packed sequences start, as the kernels of the device take it.
enum Resets {
    Flags(Vec<bool>),
    Bytes(Tensor),
}

impl Resets {
    fn new(starts: &Starts, dims: &cpu::Dims, device: Device) -> Result<Self> {
        let (batch, length) = (dims.batch, dims.length);
        Ok(match device {
            Device::Cpu => Self::Flags(starts.flags(OP, batch, length)?.to_vec()),
            Device::Cuda(_) => Self::Bytes(starts.bytes(OP, batch, length, device)?),
        })
    }

    fn flags(&self) -> Option<&[bool]> {
        match self {
            Self::Flags(flags) => Some(flags),
            Self::Bytes(_) => None,
        }
    }

    fn bytes(&self) -> Option<&Tensor> {
        match self {
            Self::Flags(_) => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// A view without gaps.
fn dense(var: &Var) -> Result<View<'_>> {
    Ok(var.tensor()?.view())
}

/// The operands and sparse checkpoints of the state; the states between them are computed again.
struct ScanBackward {
    dims: cpu::Dims,
    u: Var,
    delta: Var,
    a: Var,
    a_im: Option<Var>,
    b: Var,
    c: Var,
    d: Option<Var>,
    z: Option<Var>,
    delta_bias: Option<Var>,
    initial_state: Option<Var>,
    resets: Option<Resets>,
    softplus: bool,
    reverse: bool,
    checkpoints: Option<Tensor>,
}

impl ScanBackward {
    /// The operands as the processor's kernels take them.
    fn cpu_inputs(&self) -> Result<cpu::Inputs<'_>> {
        Ok(cpu::Inputs {
            u: self.u.mat()?,
            delta: self.delta.mat()?,
            a: match &self.a_im {
                None => cpu::A::Real(check::values(&self.a)?),
                Some(im) => cpu::A::Complex {
                    re: check::values(&self.a)?,
                    im: check::values(im)?,
                },
            },
            b: self.b.mat()?,
            c: self.c.mat()?,
            d: self.d.as_ref().map(check::values).transpose()?,
            z: self.z.as_ref().map(Var::mat).transpose()?,
            delta_bias: self.delta_bias.as_ref().map(check::values).transpose()?,
            initial_state: self.initial_state.as_ref().map(check::values).transpose()?,
            starts: self.resets.as_ref().and_then(Resets::flags),
            softplus: self.softplus,
            reverse: self.reverse,
        })
    }

    /// The operands as a GPU's kernels take them.
    fn cuda_inputs(&self) -> Result<cuda::Inputs<'_>> {
        Ok(cuda::Inputs {
            u: self.u.view(),
            delta: self.delta.view(),
            a: match &self.a_im {
                None => cuda::A::Real(dense(&self.a)?),
                Some(im) => cuda::A::Complex {
                    re: dense(&self.a)?,
                    im: dense(im)?,
                },
            },
            b: self.b.view(),
            c: self.c.view(),
            d: self.d.as_ref().map(dense).transpose()?,
            z: self.z.as_ref().map(Var::view),
            delta_bias: self.delta_bias.as_ref().map(dense).transpose()?,
            initial_state: self.initial_state.as_ref().map(dense).transpose()?,
            starts: self
                .resets
                .as_ref()
                .and_then(Resets::bytes)
                .map(Tensor::view),
            softplus: self.softplus,
            reverse: self.reverse,
        })
    }

    fn forward(
        &self,
        y: &mut Tensor,
        last: &mut Tensor,
        checkpoints: Option<&mut Tensor>,
    ) -> Result<()> {
        match y.device() {
            Device::Cpu => cpu::forward(
                &self.dims,
                &self.cpu_inputs()?,
                y.mat_mut()?,
                Some(last.make_mut()?),
                checkpoints.map(Tensor::make_mut).transpose()?,
            ),
            Device::Cuda(_) => cuda::forward(
                &self.dims,
                &self.cuda_inputs()?,
                y.view_mut()?,
                last.view_mut()?,
                checkpoints.map(Tensor::view_mut).transpose()?,
            )?,
        }
        Ok(())
    }

    fn backward_on_cpu(
        &self,
        checkpoints: &Tensor,
        dy: &Tensor,
        dlast: Option<&Tensor>,
        grads: [ViewMut<'_>; 10],
    ) -> Result<()> {
        let [u, delta, a, a_im, b, c, d, z, bias, initial] = grads;
        let grads = cpu::Grads {
            u: u.mat()?,
            delta: delta.mat()?,
            z: self.z.as_ref().map(|_| z.mat()).transpose()?,
            a: match self.a_im {
                None => cpu::AMut::Real(a.slice()?),
                Some(_) => cpu::AMut::Complex {
                    re: a.slice()?,
                    im: a_im.slice()?,
                },
            },
            b: b.mat()?,
            c: c.mat()?,
            d: self.d.as_ref().map(|_| d.slice()).transpose()?,
            delta_bias: self.delta_bias.as_ref().map(|_| bias.slice()).transpose()?,
            initial_state: self
                .initial_state
                .as_ref()
                .map(|_| initial.slice())
                .transpose()?,
        };
        cpu::backward(
            &self.dims,
            &self.cpu_inputs()?,
            checkpoints.as_slice()?,
            dy.mat()?,
            dlast.map(Tensor::as_slice).transpose()?,
            grads,
        );
        Ok(())
    }

    fn backward_on_cuda(
        &self,
        checkpoints: &Tensor,
        dy: &Tensor,
        dlast: Option<&Tensor>,
        grads: [ViewMut<'_>; 10],
    ) -> Result<()> {
        let [u, delta, a, a_im, b, c, d, z, bias, initial] = grads;
        let grads = cuda::Grads {
            u,
            delta,
            z: self.z.as_ref().map(|_| z),
            a: match self.a_im {
                None => cuda::AMut::Real(a),
                Some(_) => cuda::AMut::Complex { re: a, im: a_im },
            },
            b,
            c,
            d: self.d.as_ref().map(|_| d),
            delta_bias: self.delta_bias.as_ref().map(|_| bias),
            initial_state: self.initial_state.as_ref().map(|_| initial),
        };
        let dlast = dlast.map(Tensor::view);
        cuda::backward(
            &self.dims,
            &self.cuda_inputs()?,
            checkpoints.view(),
            dy.view(),
            dlast,
            grads,
        )
    }
}

impl Backward for ScanBackward {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let dlast = context.take_output(1);
        let device = self.u.device();
        let dy = match context.take_output(0) {
            Some(dy) => dy,
            None => Tensor::zeros(self.u.shape(), self.u.dtype(), device)?,
        };
        let Some(checkpoints) = &self.checkpoints else {
            unreachable!("a recorded scan has saved its checkpoints");
        };
        let grads = context.overwrite([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])?;
        match device {
            Device::Cpu => self.backward_on_cpu(checkpoints, &dy, dlast.as_ref(), grads),
            Device::Cuda(_) => self.backward_on_cuda(checkpoints, &dy, dlast.as_ref(), grads),
        }
    }
}
