//! The diagonal matrix A that state space models share.

use std::f32::consts::{LN_2, PI};

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};

use crate::setting::check;
use crate::{Param, Result, Start};

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

/// A_log, with Re A = -exp(A_log), and Im A where it is complex, both (channels, N) and without values; `role` says how
/// they are trained.
///
/// # Errors
/// [`crate::Error::Config`] for a state size that the kernels do not take.
pub(super) fn plan_a(
    shape: [usize; 2],
    init: AInit,
    role: impl Fn(Param) -> Param,
) -> Result<(Param, Option<Param>)> {
    let [_, d_state] = shape;
    check("d_state", d_state as f64, 1.0..=256.0)?; // the kernels' limit
    let log = match init {
        AInit::Real => Start::Row((1..=d_state).map(|n| (n as f32).ln()).collect()),
        AInit::Half | AInit::Complex => Start::Constant(-LN_2),
        AInit::Random => Start::Normal { std: 1.0 },
    };
    let imag = || Start::Row((0..d_state).map(|n| PI * n as f32).collect());
    let param = |start| role(Param::new(shape, start));
    let imag = (init == AInit::Complex).then(|| param(imag()));
    Ok((param(log), imag))
}

/// The state before the first token: zeros (batch, channels, N), or 2 N where A is complex.
pub(super) fn zero_state(
    a_log: &Param,
    complex: bool,
    batch: usize,
    device: Device,
) -> Result<Var> {
    let width = if complex { 2 } else { 1 } * a_log.shape().cols();
    let shape = [batch, a_log.shape().rows(), width];
    Ok(Tensor::zeros(shape, DType::F32, device)?.into())
}
