//! One position of many sequences.

use serpens_core::{DType, Device, Mat, Result, View, ViewMut, bf16};

use super::{OP, cpu, cuda};
use crate::check;

/// Where the Δ of a step comes from. Its bias and softplus follow.
#[derive(Clone, Copy, Debug)]
pub enum StepDelta<'a> {
    /// Δ itself: (S, channels).
    Given(View<'a>),
    /// Δ = W low.
    LowRank {
        /// (S, R).
        low: View<'a>,
        /// W: (channels, R), f32 or bf16.
        weight: View<'a>,
    },
}

/// What a step of a real scan of one group reads, for S slots and N states of each channel. u, Δ, B, C and z may be
/// columns of wider rows; all f32, on a GPU u, Δ, B, C, z and y may all be bf16.
#[derive(Clone, Copy, Debug)]
pub struct StepOperands<'a> {
    /// (S, channels).
    pub u: View<'a>,
    /// Before bias and softplus.
    pub delta: StepDelta<'a>,
    /// A, negative where the state is to decay: (channels, N).
    pub a: View<'a>,
    /// B: (S, N).
    pub b: View<'a>,
    /// C: (S, N).
    pub c: View<'a>,
    /// D: (channels).
    pub d: Option<View<'a>>,
    /// The gate: (S, channels).
    pub z: Option<View<'a>>,
    /// Added to Δ: (channels).
    pub delta_bias: Option<View<'a>>,
    /// As [`ScanOptions`](super::ScanOptions) has it.
    pub zero_order_hold: bool,
}

/// The next position of S sequences (slots), without a tape: δ = softplus(Δ + bias), h = exp(δ A) h + δ B u with h the
/// `state`, in place, and y = (<C, h> + D u) silu(z); under zero-order hold (exp(δ A) - 1) / A for the second δ. A slot
/// has the same bits among any others. All is computed in f32; a state in bf16 is rounded to nearest even behind it.
///
/// # Shapes
/// state (S, channels · N) of f32 or bf16, y (S, channels); rows of both may be parts of wider ones
///
/// # On a GPU
/// A, D, W and the bias may be read early, as [`linear::step`](crate::linear::step) says.
///
/// # Errors
/// Shapes that do not fit; operands of other types, or on different devices; N outside 1..=256.
pub fn step(operands: &StepOperands<'_>, state: ViewMut<'_>, y: ViewMut<'_>) -> Result<()> {
    operands.check(&state.as_view(), &y.as_view())?;
    match operands.u.device() {
        Device::Cpu => {
            let (operands, y) = (operands.on_cpu()?, y.mat()?);
            match state.dtype() {
                DType::BF16 => cpu::step::<bf16>(&operands, state.mat_of()?, y),
                _ => cpu::step::<f32>(&operands, state.mat()?, y),
            }
            Ok(())
        }
        Device::Cuda(_) => cuda::step(operands, state, y),
    }
}

impl<'a> StepOperands<'a> {
    fn check(&self, state: &View<'_>, y: &View<'_>) -> Result<()> {
        let (slots, channels, n) = (self.u.rows(), self.u.cols(), self.a.cols());
        let (io, device) = ((self.u.dtype(), self.u.device()), self.u.device());
        let f32s = (DType::F32, device);
        check::range(OP, "the state size N", 1..257, n)?;
        check::float(OP, "u", io.0)?;
        match &self.delta {
            StepDelta::Given(delta) => check::view(OP, "delta", [slots, channels], io, delta)?,
            StepDelta::LowRank { low, weight } => {
                check::range(OP, "the rank of delta", 1..usize::MAX, weight.cols())?;
                check::view(OP, "delta", [slots, weight.cols()], io, low)?;
                check::float(OP, "the weight of delta", weight.dtype())?;
                let shape = [channels, low.cols()];
                let stored = (weight.dtype(), device);
                check::view(OP, "the weight of delta", shape, stored, weight)?;
            }
        }
        check::view(OP, "A", [channels, n], f32s, &self.a)?;
        check::view(OP, "B", [slots, n], io, &self.b)?;
        check::view(OP, "C", [slots, n], io, &self.c)?;
        for (name, vector) in [("D", &self.d), ("delta_bias", &self.delta_bias)] {
            if let Some(vector) = vector {
                check::view(OP, name, [1, channels], f32s, vector)?;
            }
        }
        if let Some(z) = &self.z {
            check::view(OP, "z", [slots, channels], io, z)?;
        }
        check::float(OP, "the state", state.dtype())?;
        let (shape, stored) = ([slots, channels * n], (state.dtype(), device));
        check::view(OP, "the state", shape, stored, state)?;
        check::view(OP, "y", [slots, channels], io, y)
    }

    fn on_cpu(&self) -> Result<cpu::Step<'a>> {
        let vector = |view: Option<View<'a>>| view.map(View::mat).transpose();
        let slice = |view| Ok(vector(view)?.map(Mat::into_slice));
        let delta = match self.delta {
            StepDelta::Given(delta) => cpu::Delta::Given(delta.mat()?),
            StepDelta::LowRank { low, weight } => match weight.dtype() {
                DType::BF16 => cpu::Delta::LowRankBf16(low.mat()?, weight.mat_of()?),
                _ => cpu::Delta::LowRank(low.mat()?, weight.mat()?),
            },
        };
        Ok(cpu::Step {
            u: self.u.mat()?,
            delta,
            a: self.a.mat()?,
            b: self.b.mat()?,
            c: self.c.mat()?,
            d: slice(self.d)?,
            z: vector(self.z)?,
            delta_bias: slice(self.delta_bias)?,
            zero_order_hold: self.zero_order_hold,
        })
    }
}
