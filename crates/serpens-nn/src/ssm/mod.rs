//! State space models, which mixers are built around.

mod diagonal;
mod gated;
mod s4d;
mod selective;
mod selective_step;

use std::fmt::Debug;

use dyn_clone::DynClone;
use enum_dispatch::enum_dispatch;
use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};

pub use diagonal::AInit;
pub(crate) use gated::GateStart;
pub use s4d::{S4d, S4dConfig};
pub use selective::{DtRank, SelectionTrace, SelectiveSsm, SelectiveSsmConfig};
pub use selective_step::SelectiveStep;

use crate::layers::Sequence;
use crate::{Module, Result};

/// A state space model over the channels of a mixer. Its clone has parameters of its own.
pub trait Ssm: Module + Debug + DynClone + Send + Sync {
    /// The state before the first token.
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var>;

    /// SSM(x), gated as SSM(x) ⊙ silu(z) where `gate` z is given. With `state`, the sequence continues the one that
    /// left it, and it is replaced.
    ///
    /// # Shapes
    /// x, gate (batch, length, d_inner) → (batch, length, d_inner)
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for a way to read that this model does not have.
    fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var>;

    /// A step of it, with its values of now, where it is one of those that mixers fuse.
    ///
    /// # Errors
    /// [`crate::Error::NoValue`]; memory.
    fn selective_step(&self) -> Result<Option<SelectiveStep>> {
        Ok(None)
    }
}

dyn_clone::clone_trait_object!(Ssm);

/// Settings of a state space model.
#[enum_dispatch]
pub trait SsmSettings {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Whether it reads sequences in reverse.
    fn reverses(&self) -> bool {
        true
    }

    /// The model without values, over `d_inner` channels of a model of width `d_model`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a state size that the kernels do not take, and step sizes that are none.
    fn plan(&self, d_model: usize, d_inner: usize) -> Result<Box<dyn Ssm>>;
}

/// Which state space model a mixer is built around.
#[enum_dispatch(SsmSettings)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    expecting = "a table with a kind, as { kind = … }"
)]
pub enum SsmConfig {
    /// Selective (S6): Δ, B and C depend on the token.
    S6(SelectiveSsmConfig),
    /// Time-invariant (S4D).
    S4d(S4dConfig),
}

impl Default for SsmConfig {
    fn default() -> Self {
        SelectiveSsmConfig::default().into()
    }
}
