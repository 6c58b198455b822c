//! The diagonal matrix A that state space models share.

use std::f32::consts::{LN_2, PI};

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::elementwise::neg_exp;

use crate::{Error, Param, Result, Start, module};

/// How A starts, the same for every channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AInit {
    /// A_n = -(n + 1): S4D-Real, as every published Mamba model.
    #[default]
    Real,
    /// A_n = -1/2.
    Half,
    /// A_n = -exp(normal).
    Random,
    /// A_n = -1/2 + π n i: S4D-Lin; the state is complex, in conjugate pairs.
    Complex,
}

/// A over (channels, N): Re A = -exp(A_log).
#[derive(Clone, Debug)]
pub(super) struct DiagonalA {
    pub(super) log: Param,          // (channels, N)
    pub(super) imag: Option<Param>, // (channels, N)
    pub(super) channels: usize,
    pub(super) d_state: usize,
}

module!(DiagonalA { log => "A_log", imag => "A_imag" });

impl DiagonalA {
    /// Without values; `role` says how its parameters are trained.
    ///
    /// # Errors
    /// [`Error::Config`] for a state size that the kernels do not take.
    pub(super) fn plan(
        [channels, d_state]: [usize; 2],
        init: AInit,
        role: impl Fn(Param) -> Param,
    ) -> Result<Self> {
        Error::check("d_state", d_state, 1..=256)?;
        let log = match init {
            AInit::Real => Start::Row((1..=d_state).map(|n| (n as f32).ln()).collect()),
            AInit::Half | AInit::Complex => Start::Constant(-LN_2),
            AInit::Random => Start::Normal { std: 1.0 },
        };
        let imag = || Start::Row((0..d_state).map(|n| PI * n as f32).collect());
        let param = |start| role(Param::new([channels, d_state], start));
        Ok(Self {
            log: param(log),
            imag: (init == AInit::Complex).then(|| param(imag())),
            channels,
            d_state,
        })
    }

    /// Values of the state for each channel: N, or 2 N where A is complex.
    pub(super) fn state_width(&self) -> usize {
        match self.imag {
            Some(_) => 2 * self.d_state,
            None => self.d_state,
        }
    }

    /// Zeros (batch, channels, N), or 2 N where A is complex.
    pub(super) fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        let shape = [batch, self.channels, self.state_width()];
        Ok(Tensor::zeros(shape, DType::F32, device)?.into())
    }

    /// Re A and Im A, for operations on the tape of `x`.
    pub(super) fn on(&self, x: &Var) -> Result<(Var, Option<Var>)> {
        let a = neg_exp(&self.log.var()?.on(x))?;
        Ok((a, self.imag.as_ref().map(Param::var).transpose()?))
    }
}
