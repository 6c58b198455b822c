//! The definitions in f64, value by value.

/// A rule with its numbers.
#[derive(Clone, Copy, Debug)]
pub enum Definition {
    AdamW { betas: [f64; 2], eps: f64 },
    Sgd { momentum: f64 },
    Lion { betas: [f64; 2] },
}

/// The numbers of one step: learning rate, weight decay, and t.
pub type Step = (f64, f64, i32);

impl Definition {
    /// Updates a parameter and its moments in place; `v` is AdamW's.
    pub fn update(self, step: Step, p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64]) {
        let (lr, weight_decay, t) = step;
        for i in 0..p.len() {
            p[i] -= lr * weight_decay * p[i];
            match self {
                Self::AdamW { betas, eps } => {
                    m[i] = betas[0] * m[i] + (1.0 - betas[0]) * g[i];
                    v[i] = betas[1] * v[i] + (1.0 - betas[1]) * g[i] * g[i];
                    let first = m[i] / (1.0 - betas[0].powi(t));
                    let second = v[i] / (1.0 - betas[1].powi(t));
                    p[i] -= lr * first / (second.sqrt() + eps);
                }
                Self::Sgd { momentum } => {
                    m[i] = momentum * m[i] + g[i];
                    p[i] -= lr * m[i];
                }
                Self::Lion { betas } => {
                    let way = betas[0] * m[i] + (1.0 - betas[0]) * g[i];
                    p[i] -= lr * if way == 0.0 { 0.0 } else { way.signum() };
                    m[i] = betas[1] * m[i] + (1.0 - betas[1]) * g[i];
                }
            }
        }
    }
}
