//! A training loop of one's own with a loss of one's own: induction heads, learnt from smoothed targets and held to
//! logits of a moderate size.
//!
//! `cargo run --release -p serpens-train --example own_loop`

use std::error::Error;

use serpens_core::{Device, Gradients, Result, Tape, Tensor, Var};
use serpens_data::{Batch, IGNORE, InductionHeads, InductionHeadsConfig, Source};
use serpens_nn::MambaLmConfig;
use serpens_nn::layers::Sequence;
use serpens_ops::elementwise::{add, mul, scale, sub};
use serpens_ops::reduce::{sum, sum_last};
use serpens_ops::softmax::log_softmax;
use serpens_train::{Optimizer, OptimizerConfig};

const STEPS: u64 = 120;
/// The share of the target that all tokens have together.
const SMOOTHING: f32 = 0.1;
/// The weight of (ln Σ_c e^x_c)², which keeps logits from growing.
const RESTRAINT: f32 = 1e-3;

/// −Σ_c q_c ln p_c + RESTRAINT · (ln Σ_c e^x_c)², averaged over the positions that count.
///
/// # Shapes
/// logits (batch, length, tokens), targets (batch, length)
fn loss(logits: &Var, targets: &[u32]) -> Result<Var> {
    let tokens = logits.shape().cols();
    let counted = targets.iter().filter(|&&target| target != IGNORE);
    let share = 1.0 / counted.count().max(1) as f32;
    let (mut smoothed, mut counts) = (Vec::new(), Vec::new());
    for &target in targets {
        let counts_here = if target == IGNORE { 0.0 } else { share };
        let all = counts_here * SMOOTHING / tokens as f32;
        smoothed.extend((0..tokens).map(|token| match token == target as usize {
            true => all + counts_here * (1.0 - SMOOTHING),
            false => all,
        }));
        counts.push(counts_here);
    }
    let smoothed: Var = Tensor::from_slice(logits.shape(), &smoothed, Device::cpu())?.into();
    let counts: Var = Tensor::from_slice([counts.len()], &counts, Device::cpu())?.into();

    let log_p = log_softmax(logits)?;
    let likelihood = sum(&mul(&smoothed, &log_p)?)?;
    // x − ln p is the same at every token of a position: its log-sum-exp, here as the mean of all.
    let norms = scale(&sum_last(&sub(logits, &log_p)?)?, 1.0 / tokens as f32)?;
    let norms = norms.reshape([targets.len()])?;
    let restraint = sum(&mul(&counts, &mul(&norms, &norms)?)?)?;
    add(&scale(&likelihood, -1.0)?, &scale(&restraint, RESTRAINT)?)
}

/// The share of the targets that have the largest logit.
fn accuracy(logits: &Var, targets: &[u32]) -> Result<f64> {
    let logits = logits.mat()?;
    let (mut right, mut all) = (0.0, 0.0);
    for (r, &target) in targets.iter().enumerate().filter(|row| *row.1 != IGNORE) {
        let row = logits.row(r).iter().enumerate();
        let best = row.max_by(|a, b| a.1.total_cmp(b.1));
        right += f64::from(best.is_some_and(|best| best.0 == target as usize));
        all += 1.0;
    }
    Ok(right / all)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let task = InductionHeads::new(InductionHeadsConfig {
        vocab: 8,
        batch: 32,
        lengths: vec![16],
        seed: 0,
    })?;
    let mut model = MambaLmConfig::new(32, 2, 8).init(Device::cpu(), 0)?;
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    let mut gradients = Gradients::new();
    for step in 0..=STEPS {
        let Batch {
            inputs,
            targets,
            batch,
            length,
            ..
        } = task.batch(step)?;
        let (inputs, targets) = (inputs.ids(), targets.ids());
        let tape = Tape::new();
        let ids = tape.constant(Tensor::from_slice([batch, length], inputs, Device::cpu())?);
        let logits = model.forward(&ids, &Sequence::default(), None)?;
        let loss = loss(&logits, targets)?;
        gradients.clear(); // their memory stays
        tape.backward(&loss, 1.0, &mut gradients)?;
        let rate = 1e-2 * (1.0 - step as f32 / STEPS as f32);
        let norm = optimizer.step(&mut model, &mut gradients, rate)?;
        if step % 20 == 0 {
            let value = loss.tensor()?.to_vec::<f32>()?[0];
            let accuracy = 100.0 * accuracy(&logits, targets)?;
            println!(
                "step {step:3}: loss {value:.4}, right {accuracy:5.1} %, gradient norm {norm:.2}"
            );
        }
    }
    Ok(())
}
