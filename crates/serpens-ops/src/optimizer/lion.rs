//! The sign of a momentum.

use super::cpu::{Block, Step};
use super::cuda::Program;
use super::{NUMBERS, Rule};

// SAFETY: it changes the moment that it is given, and nothing else.
static PROGRAM: Program = unsafe { Program::new("lion", include_str!("lion.cu")) };

/// lr · sign(β1 m + (1 - β1) g) is taken off a value, nothing where the sum is 0, and then m ← β2 m + (1 - β2) g.
///
/// Source: X. Chen and others, "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// β1, the share of the moment in a step.
    pub beta1: f32,
    /// β2, the decay of the moment.
    pub beta2: f32,
}

impl Lion {
    /// The decays that its authors took.
    pub const USUAL: Self = Self {
        beta1: 0.9,
        beta2: 0.99,
    };
}

impl Rule for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["average"]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let (Self { beta1, beta2 }, lr) = (*self, step.lr);
        let (rest1, rest2) = (1.0 - beta1, 1.0 - beta2);
        block.each(move |g, [m]| {
            let way = beta1.mul_add(*m, rest1 * g);
            *m = beta2.mul_add(*m, rest2 * g);
            if way == 0.0 { 0.0 } else { lr.copysign(way) }
        });
    }

    fn numbers(&self, _: u64) -> [f32; NUMBERS] {
        [self.beta1, self.beta2, 0.0, 0.0, 0.0, 0.0]
    }

    fn program(&self) -> Option<&'static Program> {
        Some(&PROGRAM)
    }
}
