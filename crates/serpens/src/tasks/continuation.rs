//! Texts that byte models continue.

use std::collections::VecDeque;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serpens_core::{DType, Tensor};
use serpens_nn::MambaLm;
use serpens_ops::elementwise::cast;
use serpens_ops::sample::Sampler;
use serpens_train::go_on;

use crate::Result;
use crate::stop::STOP;

/// Bytes of a prompt between two looks at whether an end was asked for.
const PASS: usize = 4096;

/// Bytes back that the repetition penalty looks.
const RECENT: usize = 64;

/// How fast a text was continued.
pub(crate) struct Pace {
    pub(crate) read_per_second: f64,
    pub(crate) written: usize,
    pub(crate) written_per_second: f64,
}

/// Reads the prompt, which has a byte at least, then draws `count` bytes after it; ends early where `show` says of one
/// that nobody reads on.
pub(crate) fn continue_text(
    model: &MambaLm,
    prompt: &[u8],
    count: usize,
    sampler: &mut Sampler,
    seed: u64,
    mut show: impl FnMut(u8) -> Result<bool>,
) -> Result<Pace> {
    let start = Instant::now();
    let mut state = model.initial_state(1)?;
    let mut read = |bytes: &[u8]| -> Result<Vec<f32>> {
        let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
        let ids = Tensor::from_slice([1, ids.len()], &ids, model.device())?; // (batch, length)
        let logits = cast(&model.read(&ids, &mut state)?.into(), DType::F32)?;
        Ok(logits.tensor()?.to_vec()?)
    };
    let mut logits = Vec::new();
    for pass in prompt.chunks(PASS) {
        go_on(&STOP)?;
        logits = read(pass)?;
    }
    let read_per_second = prompt.len() as f64 / start.elapsed().as_secs_f64().max(1e-9);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut written = 0;
    let recent = &prompt[prompt.len().saturating_sub(RECENT)..];
    let mut recent: VecDeque<u32> = recent.iter().copied().map(u32::from).collect();
    let start = Instant::now();
    while written < count {
        let byte = sampler.sample(&logits, recent.make_contiguous(), &mut rng)? as u8;
        if !show(byte)? {
            break;
        }
        written += 1;
        recent.push_back(byte.into());
        if recent.len() > RECENT {
            recent.pop_front();
        }
        if written < count {
            logits = read(&[byte])?;
        }
    }
    Ok(Pace {
        read_per_second,
        written,
        written_per_second: written as f64 / start.elapsed().as_secs_f64().max(1e-9),
    })
}
