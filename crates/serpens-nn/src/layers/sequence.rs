//! What the layers over time have in common: how a sequence is to be read, step sizes, and the choice of the inner layer.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::Starts;
use serpens_ops::elementwise::silu_mul;

use super::{S4d, S4dConfig, SelectionTrace, SelectiveSsm, SelectiveSsmConfig};
use crate::{Error, Module, Recompute, Result, Visit, VisitMut};

/// How a layer is to read a sequence.
#[derive(Clone, Copy, Default)]
pub struct Sequence<'a> {
    /// Where packed sequences start: nothing is remembered across these positions.
    pub starts: Option<&'a Starts>,
    /// From the last position to the first.
    pub reverse: bool,
    /// What is computed again for the gradients, where the sequence is read without a state.
    pub recompute: Recompute,
    /// Collects what each selective layer did with each token.
    pub trace: Option<&'a RefCell<Vec<SelectionTrace>>>,
}

/// How a sequence is to be read, to be kept for a second reading.
pub(crate) struct OwnedSequence {
    starts: Option<Starts>,
    reverse: bool,
}

impl Sequence<'_> {
    /// The same, without what is done once only.
    pub(crate) fn owned(&self) -> OwnedSequence {
        OwnedSequence {
            starts: self.starts.cloned(),
            reverse: self.reverse,
        }
    }
}

impl OwnedSequence {
    pub(crate) fn borrow(&self) -> Sequence<'_> {
        Sequence {
            starts: self.starts.as_ref(),
            reverse: self.reverse,
            ..Sequence::default()
        }
    }
}

/// Which state space model a block is built around.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum InnerConfig {
    /// Selective (S6): Δ, B and C depend on the token.
    S6(SelectiveSsmConfig),
    /// Time-invariant (S4D).
    S4d(S4dConfig),
}

impl InnerConfig {
    /// The layer over `d_inner` channels of a model of width `d_model`.
    pub fn plan(&self, d_model: usize, d_inner: usize) -> Result<Inner> {
        Ok(match self {
            InnerConfig::S6(config) => Inner::S6(Box::new(config.plan(d_model, d_inner)?)),
            InnerConfig::S4d(config) => Inner::S4d(Box::new(config.plan(d_inner)?)),
        })
    }
}

/// The state space model inside a block.
#[derive(Clone, Debug)]
pub enum Inner {
    /// Selective.
    S6(Box<SelectiveSsm>),
    /// Time-invariant.
    S4d(Box<S4d>),
}

impl Module for Inner {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        match self {
            Inner::S6(layer) => layer.visit(path, f),
            Inner::S4d(layer) => layer.visit(path, f),
        }
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        match self {
            Inner::S6(layer) => layer.visit_mut(path, f),
            Inner::S4d(layer) => layer.visit_mut(path, f),
        }
    }
}

impl Inner {
    /// The state before the first token.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        match self {
            Inner::S6(layer) => layer.initial_state(batch, device),
            Inner::S4d(layer) => layer.initial_state(batch, device),
        }
    }

    /// SSM(x), gated as SSM(x) ⊙ silu(z) where `gate` z is given. With `state`, the sequence continues the one that left it,
    /// and it is replaced.
    ///
    /// # Shapes
    /// (batch, length, d_inner) → the same
    pub fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var> {
        match self {
            Inner::S6(layer) => layer.forward(x, gate, sequence, state),
            Inner::S4d(layer) => {
                if sequence.starts.is_some() || sequence.reverse {
                    return Err(Error::Unsupported {
                        layer: "S4D",
                        what: "read packed or reversed sequences",
                    });
                }
                let y = layer.forward(x, state)?;
                match gate {
                    Some(z) => Ok(silu_mul(&y, z)?),
                    None => Ok(y),
                }
            }
        }
    }
}
