//! `serpens generate`.

use std::io::{self, IsTerminal, Write};

use serpens_nn::Module;
use serpens_ops::sample::{SampleOptions, Sampler};

use crate::cli::GenerateArgs;
use crate::output::{OutputMode, harmless, say, tell, unless_gone};
use crate::refusal::WrongModel;
use crate::tasks::continuation::continue_text;
use crate::{Error, Result};

/// Bytes of a prompt that are shown on a terminal at most.
const MOST_ON_A_TERMINAL: usize = 2000;

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let mut sampler = Sampler::new(SampleOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
    })?;
    let prompt = args.prompt.read()?.unwrap_or_else(|| b"\n".to_vec());
    let (dir, mut model) = args.model.load()?;
    model.to(compute.device, compute.precision)?;
    let vocabulary = model.config().vocab_size;
    if vocabulary != 256 {
        return Err(Error::wrong_model(dir, WrongModel::NoBytes(vocabulary)));
    }
    let write = |text: &[u8]| -> Result<bool> { Ok(args.json || text.is_empty() || show(text)?) };
    let mut text = Vec::new();
    let mut pending = Vec::new();
    let (count, seed, mode) = (args.tokens, args.seed, OutputMode::Terminal);
    let ids: Vec<u32> = prompt.iter().copied().map(u32::from).collect();
    let pace = continue_text(&model, &ids, count, &mut sampler, seed, mode, |id| {
        if text.is_empty() {
            write(shown_of(&prompt))?; // below the bar of its reading
        }
        text.push(id as u8);
        pending.push(id as u8);
        write(take_text(&mut pending).as_bytes())
    })?;
    if args.json {
        let value = serde_json::json!({
            "prompt": String::from_utf8_lossy(&prompt),
            "text": String::from_utf8_lossy(&text),
            "tokens": text.len(),
            "prompt_tokens_per_second": pace.read_per_second,
            "tokens_per_second": pace.written_per_second,
        });
        return say(&value.to_string());
    }
    write(format!("{}\n", String::from_utf8_lossy(&pending)).as_bytes())?;
    let [read, wrote] = [prompt.len(), text.len()];
    let [reading, writing] = [pace.read_per_second, pace.written_per_second];
    tell(&format!(
        "read {read} B at {reading:.0} B/s, wrote {wrote} B at {writing:.0} B/s"
    ));
    Ok(())
}

/// What is shown of a prompt: its end on a terminal, where there is much of it.
fn shown_of(prompt: &[u8]) -> &[u8] {
    match prompt.len().saturating_sub(MOST_ON_A_TERMINAL) {
        hidden @ 1.. if io::stdout().is_terminal() => {
            tell(&format!("… after {hidden} bytes of the prompt:"));
            &prompt[hidden..]
        }
        _ => prompt,
    }
}

/// Writes to standard output, and says whether somebody still reads there.
fn show(text: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    // A model may write what a terminal would obey; a file gets what it wrote.
    let written = match out.is_terminal() {
        true => out.write_all(harmless(&String::from_utf8_lossy(text)).as_bytes()),
        false => out.write_all(text),
    };
    unless_gone(written.and_then(|()| out.flush()))
}

/// Takes what is complete of a text whose last character may still lack bytes; bytes that are no text become `�`.
fn take_text(pending: &mut Vec<u8>) -> String {
    let text = std::str::from_utf8(pending);
    let complete = text.map_or_else(|e| e.valid_up_to() + e.error_len().unwrap_or(0), str::len);
    let rest = pending.split_off(complete);
    String::from_utf8_lossy(&std::mem::replace(pending, rest)).into_owned()
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
