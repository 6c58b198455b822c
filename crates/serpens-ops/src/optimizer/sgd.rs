//! Stochastic gradient descent with momentum.

use super::cpu::{Block, Step};
use super::cuda::Program;
use super::{NUMBERS, Rule};

// SAFETY: it changes the moment that it is given, and nothing else.
static PROGRAM: Program = unsafe { Program::new("sgd", include_str!("sgd.cu")) };

/// m ← β m + g, and lr · m is taken off a value. Without dampening and Nesterov's look ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// β, the decay of the sum of gradients; 0 for none but the last.
    pub momentum: f32,
}

impl Sgd {
    /// The momentum that is tried first.
    pub const USUAL: Self = Self { momentum: 0.9 };
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["momentum"]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let (momentum, lr) = (self.momentum, step.lr);
        block.each(move |g, [m]| {
            *m = momentum.mul_add(*m, g);
            lr * *m
        });
    }

    fn numbers(&self, _: u64) -> [f32; NUMBERS] {
        [self.momentum, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    fn program(&self) -> Option<&'static Program> {
        Some(&PROGRAM)
    }
}
