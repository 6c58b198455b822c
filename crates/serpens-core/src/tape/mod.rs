//! Reverse-mode differentiation: operations record how to go back, and [`Tape::backward`] walks the record once.
//!
//! A [`Var`] is a tensor (or a range of its columns) that may be tracked. Operations call [`record`] with their inputs
//! and outputs and a [`Backward`]; a user's own operation does the same. What an operation keeps for its backward it
//! puts into that value, and it is freed as soon as its backward has run.

mod add;
mod backward;
mod gradients;
mod recompute;
mod record;
mod slot;
#[cfg(test)]
mod tests;

pub use backward::{Backward, BackwardContext};
pub use gradients::Gradients;
pub use recompute::recompute;
pub use record::{Tape, Var, record, tracked};
pub use slot::ParamId;
