//! A prompt that is read once, kept in a file, and gone on from twice.
//!
//! `cargo run --release -p serpens-infer --example fork_a_state`

use std::error::Error;
use std::ops::ControlFlow;

use serpens_core::Device;
use serpens_data::Tokenizer;
use serpens_infer::{Batching, Error as InferError, Request, SequenceState, Told, generate};
use serpens_nn::MambaLmConfig;

fn main() -> Result<(), Box<dyn Error>> {
    let model = MambaLmConfig::new(32, 2, 256).init(Device::cpu(), 0)?; // d_model, layers, tokens
    let tokenizer = Tokenizer::bytes();
    let prompt =
        tokenizer.encode("A long story, of which every reader remembers as much. ".as_bytes())?;
    let read = SequenceState::new(&model)?.read(&model, &prompt)?;

    // In a file, for another day; the model and the tokenizer must be the same then.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("story.safetensors");
    read.save(&path, &model, Some(&tokenizer))?;
    let read = SequenceState::load(&path, &model, Some(&tokenizer))?;
    println!(
        "{} tokens, in {} bytes",
        read.position(),
        std::fs::metadata(&path)?.len()
    );

    // Each goes on from a clone, which copies nothing.
    let endings = ["And then", "But first"];
    let requests = endings.map(|ending| Request {
        prompt: ending.bytes().map(u32::from).collect(),
        state: Some(read.clone()),
        tokens: 20,
        ..Request::default()
    });
    let mut drawn = [0; 2];
    generate(&model, requests, Batching::default(), |of, told| {
        match told {
            Told::Token(_) => drawn[of.request] += 1,
            Told::End(why, state) => {
                let (ending, tokens) = (endings[of.request], state.position());
                println!("{ending:?} ended by {why:?} after {tokens} tokens");
            }
        }
        Ok::<_, InferError>(ControlFlow::Continue(()))
    })?;
    assert_eq!(drawn, [20, 20]);
    Ok(())
}
