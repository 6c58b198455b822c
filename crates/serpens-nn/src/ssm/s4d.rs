//! S4D: the time-invariant diagonal state space model, the selective layer's twin.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::{exp, silu_mul};
use serpens_ops::long_conv::long_conv;
use serpens_ops::lti_kernel::{LtiSystem, lti_kernel, lti_recurrence};

use super::diagonal::{AInit, DiagonalA};
use super::{Ssm, SsmSettings};
use crate::layers::Sequence;
use crate::{Error, Param, Result, Start, StepSize, module};

/// Configures an [`S4d`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S4dConfig {
    /// State size N; complex states stand for conjugate pairs.
    pub d_state: usize,
    /// A_n = -1/2 + π n i (S4D-Lin) rather than -(n + 1) (S4D-Real).
    pub complex: bool,
    /// Initial step sizes.
    pub dt: StepSize,
    /// Whether B is trained; otherwise it is 1.
    pub train_b: bool,
    /// Largest learning rate of Δ, A and B, which S4D's authors train more slowly than the rest.
    pub max_lr: f32,
}

impl Default for S4dConfig {
    fn default() -> Self {
        Self {
            d_state: 16,
            complex: true,
            dt: StepSize::default(),
            train_b: false,
            max_lr: 1e-3,
        }
    }
}

impl S4dConfig {
    /// Complex, with state size N.
    pub fn new(d_state: usize) -> Self {
        Self {
            d_state,
            ..Self::default()
        }
    }
}

impl SsmSettings for S4dConfig {
    fn name(&self) -> &'static str {
        "S4D"
    }

    fn plan(&self, _d_model: usize, channels: usize) -> Result<Box<dyn Ssm>> {
        let shape = [channels, self.d_state];
        let init = match self.complex {
            true => AInit::Complex,
            false => AInit::Real,
        };
        // A complex C has unit variance shared by its two parts.
        let std = if self.complex { 0.5_f32.sqrt() } else { 1.0 };
        let c = || Param::new(shape, Start::Normal { std });
        let slow = |mut param: Param| {
            param.max_lr = self.max_lr;
            param.without_decay()
        };
        let b = |value| {
            let mut b = slow(Param::new(shape, Start::Constant(value)));
            b.trained = self.train_b;
            b
        };
        Ok(Box::new(S4d {
            log_dt: slow(Param::new([channels], Start::LogStep(self.dt))),
            a: DiagonalA::plan(shape, init, slow)?,
            b: b(1.0),
            b_imag: self.complex.then(|| b(0.0)),
            c: c(),
            c_imag: self.complex.then(c),
            d: Param::new([channels], Start::Normal { std: 1.0 }).without_decay(),
        }))
    }
}

/// h_t = Ā h_(t-1) + B̄ x_t, y_t = C h_t + D ⊙ x_t with Ā = exp(ΔA), B̄ = (exp(ΔA) - 1)/A · B, the same for every t;
/// with complex A, y = 2 Re(C h). Without a state it is computed as a convolution (to train), with one as a
/// recurrence (to run): the same outputs.
#[derive(Clone, Debug)]
pub struct S4d {
    log_dt: Param, // (channels)
    a: DiagonalA,
    b: Param,              // (channels, N)
    b_imag: Option<Param>, // (channels, N)
    c: Param,              // (channels, N)
    c_imag: Option<Param>, // (channels, N)
    d: Param,              // (channels)
}

module!(S4d {
    log_dt => "log_dt",
    a => "",
    b => "B",
    b_imag => "B_imag",
    c => "C",
    c_imag => "C_imag",
    d => "D",
});

impl Ssm for S4d {
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        self.a.initial_state(batch, device)
    }

    /// A convolution without `state`, a recurrence with it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for packed and reversed sequences, and for gradients through the recurrence: train
    /// without a state.
    fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var> {
        if sequence.starts.is_some() || sequence.reverse {
            return Err(Error::Unsupported {
                layer: "S4D",
                what: "read packed or reversed sequences",
            });
        }
        let y = self.read(x, state)?;
        match gate {
            Some(z) => Ok(silu_mul(&y, z)?),
            None => Ok(y),
        }
    }

    fn boxed(&self) -> Box<dyn Ssm> {
        Box::new(self.clone())
    }
}

impl S4d {
    fn read(&self, x: &Var, state: Option<&mut Var>) -> Result<Var> {
        let dt = exp(&self.log_dt.var()?.on(x))?;
        let (a, a_imag) = self.a.on(x)?;
        let imaginary = |param: &Option<Param>| param.as_ref().map(Param::var).transpose();
        let (b, b_imag) = (self.b.var()?, imaginary(&self.b_imag)?);
        let (c, c_imag) = (self.c.var()?, imaginary(&self.c_imag)?);
        let d = self.d.var()?;
        let system = LtiSystem {
            dt: &dt,
            a: &a,
            a_im: a_imag.as_ref(),
            b: &b,
            b_im: b_imag.as_ref(),
            c: &c,
            c_im: c_imag.as_ref(),
            d: Some(&d),
        };
        let Some(state) = state else {
            let axes = "(batch, length, channels)";
            let [_, length, _] = Error::check_axes("S4d", "x", axes, x.shape())?;
            return Ok(long_conv(x, &lti_kernel(&system, length)?)?);
        };
        if x.tape().is_some() {
            return Err(Error::Unsupported {
                layer: "S4D",
                what: "pass gradients through its recurrence; train it without a state",
            });
        }
        let output = lti_recurrence(x, &system, state)?;
        *state = output.last_state;
        Ok(output.y)
    }
}
