//! Texts that models continue.

use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serpens_core::{DType, Tensor};
use serpens_nn::MambaLm;
use serpens_ops::elementwise::cast;
use serpens_ops::sample::Sampler;

use crate::Result;
use crate::output::OutputMode;
use crate::progress::Meter;

/// Tokens of a prompt between two looks at whether an end was asked for.
const PASS: usize = 4096;

/// Tokens back that the repetition penalty looks.
const RECENT: usize = 64;

/// How fast a text was continued.
pub(crate) struct Pace {
    pub(crate) read_per_second: f64,
    pub(crate) written_per_second: f64,
}

/// Reads the prompt, which has a token at least, then draws `count` tokens after it; ends early where `show` says of one
/// that nobody reads on.
pub(crate) fn continue_text(
    model: &MambaLm,
    prompt: &[u32],
    count: usize,
    sampler: &mut Sampler,
    seed: u64,
    mode: OutputMode,
    mut show: impl FnMut(u32) -> Result<bool>,
) -> Result<Pace> {
    let start = Instant::now();
    let mut state = model.initial_state(1)?;
    let mut read = |ids: &[u32]| -> Result<Vec<f32>> {
        let ids = Tensor::from_slice([1, ids.len()], ids, model.device())?; // (batch, length)
        let logits = cast(&model.read(&ids, &mut state)?.into(), DType::F32)?;
        Ok(logits.tensor()?.to_vec()?)
    };
    let mut logits = Vec::new();
    let mut meter = Meter::new(mode, "reading".into(), prompt.len());
    for (i, pass) in prompt.chunks(PASS).enumerate() {
        meter.at(i * PASS)?;
        logits = read(pass)?;
    }
    drop(meter); // before the text
    let read_per_second = prompt.len() as f64 / start.elapsed().as_secs_f64().max(1e-9);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut written = 0;
    let recent = &prompt[prompt.len().saturating_sub(RECENT)..];
    let mut recent = recent.to_vec();
    let start = Instant::now();
    while written < count {
        let last = &recent[recent.len().saturating_sub(RECENT)..];
        let id = sampler.sample(&logits, last, &mut rng)?;
        if !show(id)? {
            break;
        }
        written += 1;
        recent.push(id);
        if written < count {
            logits = read(&[id])?;
        }
    }
    Ok(Pace {
        read_per_second,
        written_per_second: written as f64 / start.elapsed().as_secs_f64().max(1e-9),
    })
}
