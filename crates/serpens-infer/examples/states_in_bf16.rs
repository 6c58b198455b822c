//! What a model loses where the states of its scans are held in bf16: a text is read token by token with states in f32
//! and in bf16 beside each other. Without arguments the model is a tiny one of bytes with random values, and the text
//! this file.
//!
//! `cargo run --release -p serpens-infer --example states_in_bf16 [FOLDER TEXT [TOKENS]]`

use std::error::Error;
use std::path::Path;

use serpens_core::{DType, Device};
use serpens_data::Tokenizer;
use serpens_infer::{Batching, Decoder, argmax, encode_prompt, log_sum_exp};
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::{MambaLm, MambaLmConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, tokenizer, text) = match &arguments[..] {
        [folder, text, ..] => {
            let folder = Path::new(folder);
            let model = checkpoint::load(folder, Device::cpu(), Verify::Digests)?;
            let tokenizer = Tokenizer::find(folder)?.unwrap_or_else(Tokenizer::bytes);
            (model, tokenizer, std::fs::read(text)?)
        }
        _ => {
            let tiny = MambaLmConfig::new(32, 2, 256).init(Device::cpu(), 0)?;
            let text = include_bytes!("states_in_bf16.rs").to_vec();
            (tiny, Tokenizer::bytes(), text)
        }
    };
    let most = arguments.get(2).map_or(Ok(100_000), |most| most.parse())?;
    let mut tokens = encode_prompt(&tokenizer, &text, false)?;
    tokens.truncate(most);
    let mut decoders = [DType::F32, DType::BF16].map(|states| decoder(&model, states));
    println!(
        "tokens, bits per token with states in f32 and in bf16, error of logits, other first choices"
    );
    let (mut bits, mut squares, mut other) = ([0.0; 2], [0.0; 2], 0);
    let tenth = (tokens.len() / 10).max(1);
    for (at, pair) in tokens.windows(2).enumerate() {
        let mut logits = [Vec::new(), Vec::new()];
        for (i, decoder) in decoders.iter_mut().enumerate() {
            let decoder = decoder.as_mut().map_err(|error| error.to_string())?;
            decoder.step(&pair[..1])?;
            logits[i] = decoder.logits(0)?.to_vec();
            let log_prob = f64::from(logits[i][pair[1] as usize]) - log_sum_exp(&logits[i]);
            bits[i] -= log_prob / std::f64::consts::LN_2;
        }
        let [wide, narrow] = &logits;
        let mean = wide.iter().map(|v| f64::from(*v)).sum::<f64>() / wide.len() as f64;
        for (wide, narrow) in wide.iter().zip(narrow) {
            squares[0] += f64::from(narrow - wide).powi(2);
            squares[1] += (f64::from(*wide) - mean).powi(2);
        }
        other += usize::from(argmax(wide) != argmax(narrow));
        if (at + 1) % tenth == 0 {
            let [wide, narrow] = bits.map(|bits| bits / tenth as f64);
            let error = (squares[0] / squares[1]).sqrt();
            let share = other as f64 / tenth as f64;
            println!(
                "{}: {wide:.4} {narrow:.4}, {error:.1e}, {share:.1e}",
                at + 1
            );
            (bits, squares, other) = Default::default();
        }
    }
    Ok(())
}

/// One sequence at its beginning.
fn decoder(model: &MambaLm, states: DType) -> serpens_infer::Result<Decoder<'_>> {
    let batching = Batching {
        slots: 1,
        states,
        ..Batching::default()
    };
    let mut decoder = Decoder::batching(model, batching)?;
    decoder.enter(&model.initial_state(1)?.scatter()?.remove(0))?;
    Ok(decoder)
}
