//! `serpens generate`.

use std::io::Write;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serpens_core::{Device, Tensor};
use serpens_nn::MambaLm;
use serpens_ops::sample::{SampleOptions, Sampler};

use super::{load, model_dir};
use crate::cli::GenerateArgs;
use crate::output::{say, tell, unless_gone};
use crate::{Error, Result};

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let mut sampler = Sampler::new(SampleOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        ..SampleOptions::default()
    })?;
    let dir = model_dir(&args.model)?;
    let model = load(&dir)?;
    if model.config().vocab_size != 256 {
        let vocabulary = model.config().vocab_size;
        return Err(Error::WrongModel {
            path: dir,
            reason: format!(
                "its vocabulary has {vocabulary} tokens; generate writes text with byte models, which have 256"
            ),
        });
    }
    if args.prompt.is_empty() {
        return Err(Error::Usage {
            option: "--prompt",
            reason: "it is empty; give at least one character to begin with".into(),
        });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let start = Instant::now();
    let mut out = std::io::stdout().lock();
    let mut text = Vec::new();
    let mut pending = Vec::new();
    if !args.json {
        unless_gone(out.write_all(args.prompt.as_bytes()))?;
    }
    continue_text(&model, args.prompt.as_bytes(), args.tokens, |logits| {
        let byte = sampler.sample(logits, &[], &mut rng)? as u8;
        text.push(byte);
        if !args.json {
            // A reader that went away ends the text.
            pending.push(byte);
            let shown = take_text(&mut pending);
            let written = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
            return Ok(unless_gone(written)?.then_some(byte));
        }
        Ok(Some(byte))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = text.len() as f64 / seconds.max(1e-9);
    if args.json {
        let value = serde_json::json!({
            "prompt": args.prompt,
            "text": String::from_utf8_lossy(&text),
            "tokens": text.len(),
            "tokens_per_second": rate,
        });
        return say(&value.to_string());
    }
    unless_gone(writeln!(out, "{}", String::from_utf8_lossy(&pending)))?;
    tell(&format!("{} bytes, {rate:.0} bytes/s", text.len()));
    Ok(())
}

/// Takes what is complete of a text whose last character may still lack bytes; bytes that are no text become `�`.
fn take_text(pending: &mut Vec<u8>) -> String {
    let complete = match std::str::from_utf8(pending) {
        Ok(_) => pending.len(),
        Err(error) => error
            .error_len()
            .map_or(error.valid_up_to(), |bad| error.valid_up_to() + bad),
    };
    let rest = pending.split_off(complete);
    String::from_utf8_lossy(&std::mem::replace(pending, rest)).into_owned()
}

/// Reads the prompt, then `count` times asks `choose` for the next byte; ends early where it gives none.
pub(super) fn continue_text(
    model: &MambaLm,
    prompt: &[u8],
    count: usize,
    mut choose: impl FnMut(&[f32]) -> Result<Option<u8>>,
) -> Result<()> {
    let ids: Vec<u32> = prompt.iter().copied().map(u32::from).collect();
    let mut state = model.initial_state(1, Device::cpu())?;
    let mut logits = model.read(
        &Tensor::from_slice([1, ids.len()], &ids, Device::cpu())?,
        &mut state,
    )?;
    for _ in 0..count {
        let Some(byte) = choose(logits.as_slice()?)? else {
            return Ok(());
        };
        let id = Tensor::from_slice([1], &[u32::from(byte)], Device::cpu())?;
        logits = model.step(&id, &mut state)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_appear_when_complete_and_other_bytes_as_replacement() {
        let mut pending = Vec::new();
        let mut shown = Vec::new();
        for &byte in "aé€".as_bytes().iter().chain(&[0xff, b'b', 0xe2]) {
            pending.push(byte);
            shown.push(take_text(&mut pending));
        }
        assert_eq!(shown, ["a", "", "é", "", "", "€", "\u{fffd}", "b", ""]);
        assert_eq!(pending, [0xe2]);
    }
}
