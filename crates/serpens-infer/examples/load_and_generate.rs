//! A model from its folder with its tokenizer, and two texts that it writes at the same time. Without a folder it is a
//! tiny one of bytes, whose values are random.
//!
//! `cargo run --release -p serpens-infer --example load_and_generate [FOLDER]`

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use serpens_core::Device;
use serpens_data::Tokenizer;
use serpens_infer::{
    Batching, Error as InferError, Request, SampleOptions, TextStream, Told, encode_prompt,
    generate,
};
use serpens_nn::MambaLmConfig;
use serpens_nn::checkpoint::{self, Verify};

fn main() -> Result<(), Box<dyn Error>> {
    let made = tempfile::tempdir()?;
    let given = std::env::args().nth(1);
    let folder = given.as_deref().map_or(made.path(), Path::new);
    if given.is_none() {
        let tiny = MambaLmConfig::new(32, 2, 256).init(Device::cpu(), 0)?;
        checkpoint::save(&tiny, folder)?;
    }
    let model = checkpoint::load(folder, Device::cpu(), Verify::Digests)?;
    let tokenizer = Tokenizer::find(folder)?.unwrap_or_else(Tokenizer::bytes);

    let request = |prompt: &str| -> Result<Request, Box<dyn Error>> {
        Ok(Request {
            prompt: encode_prompt(&tokenizer, prompt.as_bytes(), false)?,
            sampling: SampleOptions {
                temperature: 0.8,
                top_p: 0.95,
                ..SampleOptions::default()
            },
            tokens: 40,
            ends: tokenizer.end_of_text().to_vec(),
            ..Request::default()
        })
    };
    let prompts = ["The snake", "Once upon a time"];
    let requests = [request(prompts[0])?, request(prompts[1])?];
    let mut streams = prompts.map(|_| TextStream::new(&tokenizer, &["\n\n".to_owned()]));
    let mut texts = prompts.map(str::to_owned);
    generate(&model, requests, Batching::default(), |of, told| {
        let stream = &mut streams[of.request];
        texts[of.request] += &match told {
            Told::Token(drawn) => stream.push(drawn.token),
            Told::End(..) => stream.finish(),
        };
        Ok::<_, InferError>(match stream.has_stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    for (text, prompt) in texts.iter().zip(prompts) {
        assert!(text.starts_with(prompt));
        println!("{text:?}");
    }
    Ok(())
}
