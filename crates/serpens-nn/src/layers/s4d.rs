//! S4D: the time-invariant diagonal state space model, the selective layer's twin.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::elementwise::{exp, neg_exp};
use serpens_ops::long_conv::long_conv;
use serpens_ops::lti_kernel::{LtiSystem, lti_kernel, lti_recurrence};

use super::StepSize;
use super::selective_ssm::check_state;
use crate::{Error, Param, Result, init, module};

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

    /// The layer over `channels`.
    pub fn init(&self, channels: usize, device: Device, rng: &mut dyn Rng) -> Result<S4d> {
        check_state(self.d_state)?;
        let shape = [channels, self.d_state];
        let (low, high) = (self.dt.min.ln(), self.dt.max.ln());
        let log_dt: Vec<f32> = (0..channels)
            .map(|_| low + (high - low) * rng.random::<f32>())
            .collect();
        let rows = |value: &dyn Fn(usize) -> f32| -> Result<Tensor> {
            let row: Vec<f32> = (0..self.d_state).map(value).collect();
            Ok(Tensor::from_slice(shape, &row.repeat(channels), device)?)
        };
        let a_log = match self.complex {
            true => rows(&|_| -std::f32::consts::LN_2)?,
            false => rows(&|n| ((n + 1) as f32).ln())?,
        };
        let a_imag = self
            .complex
            .then(|| rows(&|n| std::f32::consts::PI * n as f32))
            .transpose()?;
        // A complex C has unit variance shared by its two parts.
        let deviation = if self.complex { 0.5_f32.sqrt() } else { 1.0 };
        let mut gaussian = || init::normal(shape, deviation, device, rng).map(Param::new);
        let c = gaussian()?;
        let c_imag = self.complex.then(&mut gaussian).transpose()?;
        let b = Tensor::full(shape, 1.0_f32, device)?;
        let b_imag = self
            .complex
            .then(|| Tensor::zeros(shape, DType::F32, device))
            .transpose()?;
        let slow = |value| Param::without_decay(value).with_max_lr(self.max_lr);
        Ok(S4d {
            log_dt: slow(Tensor::from_slice([channels], &log_dt, device)?),
            a_log: slow(a_log),
            a_imag: a_imag.map(slow),
            b: self.train_b.then(|| slow(b.clone())),
            b_imag: b_imag.clone().filter(|_| self.train_b).map(slow),
            constant_b: (b, b_imag),
            c,
            c_imag,
            d: Param::without_decay(init::normal([channels], 1.0, device, rng)?),
            channels,
            d_state: self.d_state,
        })
    }
}

/// h_t = Ā h_(t-1) + B̄ x_t, y_t = C h_t + D ⊙ x_t with Ā = exp(ΔA), B̄ = (exp(ΔA) - 1)/A · B, the same for every t; with
/// complex A, y = 2 Re(C h). Without a state it is computed as a convolution (to train), with one as a recurrence (to run):
/// the same outputs.
#[derive(Clone, Debug)]
pub struct S4d {
    log_dt: Param,         // (channels)
    a_log: Param,          // (channels, N): Re A = -exp(A_log)
    a_imag: Option<Param>, // (channels, N)
    b: Option<Param>,      // (channels, N)
    b_imag: Option<Param>, // (channels, N)
    constant_b: (Tensor, Option<Tensor>),
    c: Param,              // (channels, N)
    c_imag: Option<Param>, // (channels, N)
    d: Param,              // (channels)
    channels: usize,
    d_state: usize,
}

module!(S4d {
    log_dt => "log_dt",
    a_log => "A_log",
    a_imag => "A_imag",
    b => "B",
    b_imag => "B_imag",
    c => "C",
    c_imag => "C_imag",
    d => "D",
});

impl S4d {
    /// Moves the B that is not trained to `device`.
    pub(super) fn constants_to(&mut self, device: Device) -> Result<()> {
        let (b, b_imag) = &mut self.constant_b;
        for constant in std::iter::once(b).chain(b_imag) {
            *constant = constant.to(device)?;
        }
        Ok(())
    }

    /// The state before the first token: zeros (batch, channels, N), or 2 N where A is complex.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        let planes = if self.a_imag.is_some() { 2 } else { 1 };
        let shape = [batch, self.channels, planes * self.d_state];
        Ok(Tensor::zeros(shape, DType::F32, device)?.into())
    }

    /// Reads a sequence: as a convolution without `state`; with it as a recurrence that continues the sequence that left it,
    /// and replaces it.
    ///
    /// # Shapes
    /// (batch, length, channels) → the same
    ///
    /// # Errors
    /// [`Error::Unsupported`] for gradients through the recurrence: train without a state.
    pub fn forward(&self, x: &Var, state: Option<&mut Var>) -> Result<Var> {
        let dt = exp(&self.log_dt.var().on(x))?;
        let a = neg_exp(&self.a_log.var().on(x))?;
        let a_imag = self.a_imag.as_ref().map(Param::var);
        let b = self
            .b
            .as_ref()
            .map_or_else(|| Var::from(self.constant_b.0.clone()), Param::var);
        let b_imag = self
            .b_imag
            .as_ref()
            .map(Param::var)
            .or_else(|| self.constant_b.1.clone().map(Var::from));
        let (c, c_imag) = (self.c.var(), self.c_imag.as_ref().map(Param::var));
        let d = self.d.var();
        let system = LtiSystem {
            dt: &dt,
            a: &a,
            a_imag: a_imag.as_ref(),
            b: &b,
            b_imag: b_imag.as_ref(),
            c: &c,
            c_imag: c_imag.as_ref(),
            d: Some(&d),
        };
        let Some(state) = state else {
            let [_, length, _] = *x.shape() else {
                return Err(serpens_core::Error::shape(
                    "S4d",
                    "x",
                    "(batch, length, channels)",
                    x.shape(),
                )
                .into());
            };
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
