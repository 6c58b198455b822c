//! What a model writes behind a beginning.

use std::ops::ControlFlow;

use serpens_data::Tokenizer;
use serpens_infer::{Batching, Request, SampleOptions, Told, generate};
use serpens_nn::MambaLm;
use serpens_train::go_on;

use crate::stop::STOP;
use crate::{Error, Result};

/// So many tokens that a model writes behind these, or fewer where it ends, or where its caches hold no more.
pub(crate) fn written(
    model: &MambaLm,
    prompt: &[u32],
    tokens: usize,
    sampling: SampleOptions,
    seed: u64,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>> {
    let context = model.config().context().unwrap_or(usize::MAX);
    let most = context.saturating_sub(prompt.len());
    if most == 0 || prompt.is_empty() {
        return Ok(Vec::new());
    }
    let request = Request {
        prompt: prompt.to_vec(),
        sampling,
        seed,
        tokens: tokens.min(most),
        ends: tokenizer.end_of_text().to_vec(),
        ..Request::default()
    };
    let mut written = Vec::new();
    let batching = Batching {
        slots: 1,
        vocabulary: tokenizer.vocab_size(),
        ..Batching::default()
    };
    generate(model, [request], batching, |_, told| {
        if let Told::Token(drawn) = told {
            written.push(drawn.token);
        }
        go_on(&STOP)?;
        Ok::<_, Error>(ControlFlow::Continue(()))
    })?;
    Ok(written)
}
