//! S4D: the time-invariant diagonal state space model, the selective layer's twin.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::{exp, neg_exp, silu_mul};
use serpens_ops::long_conv::long_conv;
use serpens_ops::lti_kernel::{LtiSystem, lti_kernel, lti_recurrence};
use smart_default::SmartDefault;

use super::diagonal::{AInit, plan_a, zero_state};
use super::{Ssm, SsmSettings};
use crate::layers::Sequence;
use crate::setting::check;
use crate::{Error, Param, Result, Start, StepSize, module};

/// Configures an [`S4d`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct S4dConfig {
    /// State size N; complex states stand for conjugate pairs.
    #[default = 16]
    pub d_state: usize,
    /// A_n = -1/2 + π n i (S4D-Lin) rather than -(n + 1) (S4D-Real).
    #[default = true]
    pub complex: bool,
    /// Initial step sizes.
    pub dt: StepSize,
    /// Whether B is trained; otherwise it is 1.
    pub train_b: bool,
    /// Largest learning rate of Δ, A and B, which S4D's authors train more slowly than the rest.
    #[default = 1e-3]
    pub max_lr: f32,
}

impl SsmSettings for S4dConfig {
    fn name(&self) -> &'static str {
        "S4D"
    }

    fn reverses(&self) -> bool {
        false
    }

    fn plan(&self, _d_model: usize, channels: usize) -> Result<Box<dyn Ssm>> {
        self.dt.check()?;
        check("max_lr", self.max_lr.into(), 0.0..=f64::INFINITY)?;
        let shape = [channels, self.d_state];
        let init = match self.complex {
            true => AInit::Complex,
            false => AInit::Real,
        };
        // The real and the imaginary of a complex C share unit variance.
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
        let (a, a_im) = plan_a(shape, init, slow)?;
        let system = LtiSystem {
            dt: slow(Param::new([channels], Start::LogStep(self.dt))),
            a,
            a_im,
            b: b(1.0),
            b_im: self.complex.then(|| b(0.0)),
            c: c(),
            c_im: self.complex.then(c),
            d: Some(Param::new([channels], Start::Normal { std: 1.0 }).without_decay()),
        };
        Ok(Box::new(S4d { system }))
    }
}

/// h_t = Ā h_(t-1) + B̄ x_t, y_t = C h_t + D ⊙ x_t with Ā = exp(ΔA), B̄ = (exp(ΔA) - 1)/A · B, the same for every t;
/// with complex A, y = 2 Re(C h). Without a state it is computed as a convolution (to train), with one as a
/// recurrence (to run): the same outputs.
#[derive(Clone, Debug)]
pub struct S4d {
    /// With ln Δ in place of Δ, and ln -Re A in place of Re A.
    system: LtiSystem<Param>,
}

module!(S4d {
    system.dt => "log_dt",
    system.a => "A_log",
    system.a_im => "A_imag",
    system.b => "B",
    system.b_im => "B_imag",
    system.c => "C",
    system.c_im => "C_imag",
    system.d => "D",
});

impl Ssm for S4d {
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        zero_state(&self.system.a, self.system.a_im.is_some(), batch, device)
    }

    /// A convolution without `state`, a recurrence with it. A NaN in `x` reaches earlier outputs of its sequence
    /// through the former, see [`long_conv`](mod@serpens_ops::long_conv).
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
            let what = "S4D cannot read packed or reversed sequences";
            return Err(Error::Unsupported(what));
        }
        let y = self.read(x, state)?;
        match gate {
            Some(z) => Ok(silu_mul(&y, z)?),
            None => Ok(y),
        }
    }
}

impl S4d {
    fn read(&self, x: &Var, state: Option<&mut Var>) -> Result<Var> {
        let vars = self.system.as_ref().try_map(|_, param| param.var())?;
        let vars = LtiSystem {
            dt: exp(&vars.dt.on(x))?,
            a: neg_exp(&vars.a.on(x))?,
            ..vars
        };
        let system = vars.as_ref();
        let Some(state) = state else {
            let axes = "(batch, length, channels)";
            let [_, length, _] = x.shape().axes("S4d", "x", axes)?;
            return Ok(long_conv(x, &lti_kernel(&system, length)?)?);
        };
        if x.tape().is_some() {
            let what = "S4D cannot pass gradients through its recurrence; train it without a state";
            return Err(Error::Unsupported(what));
        }
        let output = lti_recurrence(x, &system, state)?;
        *state = output.last_state;
        Ok(output.y)
    }
}
