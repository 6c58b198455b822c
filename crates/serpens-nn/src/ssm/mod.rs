//! State space models, which mixers are built around.

mod s4d;
mod selective;

use std::fmt::Debug;

use serpens_core::{Device, Var};

pub use s4d::{S4d, S4dConfig};
pub use selective::{AInit, DtRank, SelectionTrace, SelectiveSsm, SelectiveSsmConfig};

use crate::kinds::kinds;
use crate::layers::Sequence;
use crate::{Error, Module, Result};

/// A state space model over the channels of a mixer.
pub trait Ssm: Module + Debug {
    /// The state before the first token.
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var>;

    /// SSM(x), gated as SSM(x) ⊙ silu(z) where `gate` z is given. With `state`, the sequence continues the one that
    /// left it, and it is replaced.
    ///
    /// # Shapes
    /// x, gate (batch, length, d_inner) → (batch, length, d_inner)
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a way to read that this model does not have.
    fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var>;

    /// Another handle to the same parameters.
    fn boxed(&self) -> Box<dyn Ssm>;
}

impl Clone for Box<dyn Ssm> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// Settings of a state space model.
pub trait SsmSettings {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// The model without values, over `d_inner` channels of a model of width `d_model`.
    ///
    /// # Errors
    /// [`Error::Config`] for a state size that the kernels do not take.
    fn plan(&self, d_model: usize, d_inner: usize) -> Result<Box<dyn Ssm>>;
}

kinds! {
    /// Which state space model a mixer is built around.
    SsmConfig: SsmSettings {
        /// Selective (S6): Δ, B and C depend on the token.
        S6(SelectiveSsmConfig),
        /// Time-invariant (S4D).
        S4d(S4dConfig),
    }
}

impl Default for SsmConfig {
    fn default() -> Self {
        SelectiveSsmConfig::default().into()
    }
}

/// State sizes that the kernels take.
fn check_state(d_state: usize) -> Result<()> {
    Error::check("d_state", d_state, 1..=256)
}

/// How log(-Re A) and Im A start, the same for every channel.
mod start_of_a {
    use std::f32::consts::{LN_2, PI};

    use crate::Start;

    /// A_n = -1/2.
    pub(super) const HALF: Start = Start::Constant(-LN_2);

    /// S4D-Real: A_n = -(n + 1).
    pub(super) fn real(d_state: usize) -> Start {
        Start::Row((1..=d_state).map(|n| (n as f32).ln()).collect())
    }

    /// S4D-Lin: Im A_n = π n.
    pub(super) fn imaginary(d_state: usize) -> Start {
        Start::Row((0..d_state).map(|n| PI * n as f32).collect())
    }
}
