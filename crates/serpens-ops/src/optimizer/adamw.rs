//! Adam with decoupled weight decay.

use super::cpu::{Block, Step};
use super::cuda::Program;
use super::{NUMBERS, Rule};

// SAFETY: it changes the moments that it is given, and nothing else.
static PROGRAM: Program = unsafe { Program::new("adamw", include_str!("adamw.cu")) };

/// Gradients count up to here, where their squares are still far from the largest float.
const MOST: f32 = 1e19;

/// m ← β1 m + (1 - β1) g, v ← β2 v + (1 - β2) g², and what is taken off a value is
///
/// ```text
/// lr · (m / (1 - β1^t)) / (√(v / (1 - β2^t)) + eps)
/// ```
///
/// where a |g| above 1e19 counts as 1e19, since its square would be none.
///
/// Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// β1, the decay of the first moment.
    pub beta1: f32,
    /// β2, the decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl AdamW {
    /// As language models are trained with it.
    pub const USUAL: Self = Self {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
    };

    /// 1 / √(1 - β2^t), which the root of the second moment is scaled by.
    fn second(&self, t: u64) -> f32 {
        rest(self.beta2, t).sqrt().recip() as f32
    }
}

/// 1 - β^t
fn rest(beta: f32, t: u64) -> f64 {
    1.0 - f64::from(beta).powf(t as f64)
}

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn update(&self, step: &Step, block: Block<'_>) {
        let Self { beta1, beta2, eps } = *self;
        let lr = (f64::from(step.lr) / rest(beta1, step.step)) as f32;
        let second = self.second(step.step);
        let (rest1, rest2) = (1.0 - beta1, 1.0 - beta2);
        block.each(move |g, [m, v]| {
            let g = g.clamp(-MOST, MOST);
            *m = beta1.mul_add(*m, rest1 * g);
            *v = beta2.mul_add(*v, rest2 * (g * g));
            lr * (*m / v.sqrt().mul_add(second, eps))
        });
    }

    fn numbers(&self, t: u64) -> [f32; NUMBERS] {
        let first = rest(self.beta1, t).recip() as f32;
        let second = self.second(t);
        [self.beta1, self.beta2, self.eps, first, second, 0.0]
    }

    fn program(&self) -> Option<&'static Program> {
        Some(&PROGRAM)
    }
}
