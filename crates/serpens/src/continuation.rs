//! Texts that byte models continue.

use std::time::Instant;

use serpens_core::{DType, Tensor};
use serpens_nn::MambaLm;
use serpens_ops::elementwise::cast;

use crate::Result;

/// Bytes of a prompt that are read in one pass, so that the memory does not depend on its length.
const PASS: usize = 1024;

/// How fast a text was continued.
pub(crate) struct Pace {
    pub(crate) read: usize,
    read_seconds: f64,
    pub(crate) written: usize,
    written_seconds: f64,
}

impl Pace {
    pub(crate) fn read_per_second(&self) -> f64 {
        self.read as f64 / self.read_seconds.max(1e-9)
    }

    pub(crate) fn written_per_second(&self) -> f64 {
        self.written as f64 / self.written_seconds.max(1e-9)
    }
}

/// Reads the prompt, which has a byte at least, then `count` times asks `choose` for the next byte; ends early where it gives
/// none.
pub(crate) fn continue_text(
    model: &MambaLm,
    prompt: &[u8],
    count: usize,
    mut choose: impl FnMut(&[f32]) -> Result<Option<u8>>,
) -> Result<Pace> {
    let start = Instant::now();
    let mut state = model.initial_state(1)?;
    let mut read = |bytes: &[u8]| -> Result<Vec<f32>> {
        let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
        let ids = Tensor::from_slice([1, ids.len()], &ids, model.device())?; // (batch, length)
        let logits = cast(&model.read(&ids, &mut state)?.into(), DType::F32)?;
        Ok(logits.tensor()?.to_vec()?)
    };
    let mut passes = prompt.chunks(PASS);
    let mut logits = read(passes.next().unwrap_or_default())?;
    for pass in passes {
        logits = read(pass)?;
    }
    let mut pace = Pace {
        read: prompt.len(),
        read_seconds: start.elapsed().as_secs_f64(),
        written: 0,
        written_seconds: 0.0,
    };
    let start = Instant::now();
    while pace.written < count {
        let Some(byte) = choose(&logits)? else {
            break;
        };
        pace.written += 1;
        if pace.written < count {
            logits = read(&[byte])?;
        }
    }
    pace.written_seconds = start.elapsed().as_secs_f64();
    Ok(pace)
}
